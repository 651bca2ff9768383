"""The same experiments in Keras 3: an independent build of every network, to compare the Lightning side with."""

import contextlib
import importlib
import os

# Before anything imports Keras or TensorFlow, which read them once.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# TensorFlow 2.20 and later and triton, which torch loads when an optimizer is first made, clash over LLVM symbols: with
# TensorFlow loaded first, a program that also uses torch dies with a segmentation fault (tensorflow#124205). Triton's
# library loaded first is the cure, here for every program that sees both.
with contextlib.suppress(ImportError):
    importlib.import_module("triton._C.libtriton")
