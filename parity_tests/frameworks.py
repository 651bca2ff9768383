"""Both frameworks in one process. Import this before anything that imports Keras or TensorFlow.

TensorFlow 2.20 and later and triton, which torch's optimizers load when first used, clash over LLVM symbols: with
TensorFlow loaded first the process dies with a segmentation fault (tensorflow#124205). Lightning loads all of torch
that matters, so it goes first.
"""

from __future__ import annotations

import os

import lightning  # noqa: F401  (first, see above)

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

__all__ = ["keras"]
