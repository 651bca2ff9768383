"""Keras for the ladder, beside torch: it comes by way of ``keras_reference``, which holds the cure for their clash."""

from __future__ import annotations

from keras_reference.backend import keras

__all__ = ["keras"]
