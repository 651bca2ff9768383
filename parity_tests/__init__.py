"""The parity ladder: checks, rung by rung, that the Lightning side computes what Keras computes.

The only package that sees both frameworks. For tests of your own::

    from parity_tests import compare_pair

    report = compare_pair(my_torch_module, my_keras_model)
    assert report.passed, report

Import it before Keras and torch: in some orders the two crash a process. The names are found when they are first asked
for: this import loads no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras_reference  # noqa: F401 - brings the cure for the frameworks' clash, which has to come before both
from lightning_vgg.common.lazy import lazy_names

if TYPE_CHECKING:
    from parity_tests.api import PairReport, compare_pair, port_keras_model

__all__ = ["PairReport", "compare_pair", "port_keras_model"]

__getattr__, __dir__ = lazy_names(__name__, "parity_tests.api", __all__)
