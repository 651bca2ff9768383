"""What a program calls: anybody's models in both frameworks, compared or ported."""

from __future__ import annotations

from parity_tests.any_pair import PairReport as PairReport
from parity_tests.any_pair import compare_pair as compare_pair
from parity_tests.port import port_keras_model as port_keras_model
