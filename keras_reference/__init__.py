"""The same experiments in Keras 3: an independent build of every network, to compare the Lightning side with.

The names are those of :mod:`lightning_vgg`, with Keras behind ``build_network``, ``fit``, ``evaluate``,
``extract_features`` and ``export_weights``; they are found when they are first asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING

from lightning_vgg.common.lazy import lazy_names

if TYPE_CHECKING:
    from keras_reference.api import (
        ExperimentError,
        RunFolder,
        build_network,
        compare_arms,
        evaluate,
        export_weights,
        extract_features,
        fit,
        load_images,
        parse_recipe,
        plan_network,
        report_runs,
        show_augmentation,
        show_network,
    )

# Before anything imports Keras or TensorFlow, which read them once.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# TensorFlow 2.20 and later and triton, which torch loads when an optimizer is first made, clash over LLVM symbols: with
# TensorFlow loaded first, a program that also uses torch dies with a segmentation fault (tensorflow#124205). Triton's
# library loaded first is the cure, here for every program that sees both.
with contextlib.suppress(ImportError):
    importlib.import_module("triton._C.libtriton")

__all__ = [
    "ExperimentError",
    "RunFolder",
    "build_network",
    "compare_arms",
    "evaluate",
    "export_weights",
    "extract_features",
    "fit",
    "load_images",
    "parse_recipe",
    "plan_network",
    "report_runs",
    "show_augmentation",
    "show_network",
]

__getattr__, __dir__ = lazy_names(__name__, "keras_reference.api", __all__)
