"""Both frameworks in this process: the safe import order first."""

import parity_tests.frameworks  # noqa: F401
