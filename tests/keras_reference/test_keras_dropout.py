"""Dropout in Keras: the masks of the definition, on every backend."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from keras_reference.splitmix64 import as_words
from lightning_vgg.experiment.draws import layer_key, lowest_kept, mask_bits, mask_keys

KEYS = mask_keys(0, 0, np.arange(6))

SAME_BITS = """
import keras_reference
import keras
import numpy as np
from keras_reference import splitmix64
from lightning_vgg.experiment.draws import layer_key, mask_bits, mask_keys

keys, layer = mask_keys(3, 2, np.arange(50)), layer_key("block1.dropout1")
words = keras.ops.convert_to_tensor(splitmix64.as_words(keys))
for units in (1, 4, 7, 1000):
    bits = keras.ops.convert_to_numpy(splitmix64.mask_bits(words, layer, units))
    np.testing.assert_array_equal(bits, mask_bits(keys, layer, units), strict=True)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_bits_are_those_of_the_definition(backend: str) -> None:
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-W", "ignore", "-c", SAME_BITS]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_pairs_of_words_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What JAX computes, which has no 64-bit integers: here by numpy's 32-bit ones."""
    from keras_reference import splitmix64

    in_numpy = SimpleNamespace(
        view=lambda array, dtype: array.view(dtype),
        cast=lambda array, dtype: array.astype(dtype),
        stack=np.stack,
        reshape=np.reshape,
    )
    monkeypatch.setattr(splitmix64, "ops", in_numpy)
    monkeypatch.setattr("keras.config.backend", lambda: "jax")
    keys, layer = mask_keys(3, 2, np.arange(500)), layer_key("block1.dropout1")
    for units in (1, 4, 7, 1000):
        bits = splitmix64.mask_bits(splitmix64.as_words(keys), layer, units)
        np.testing.assert_array_equal(bits, mask_bits(keys, layer, units), strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(3,), (5, 7, 3)], ids=str)
def test_a_model_drops_by_the_keys_of_its_images(shape: tuple[int, ...], dtype: str, keras: Any) -> None:
    from keras_reference.dropout import Classifier, Dropout

    images = keras.Input(shape, dtype=dtype)
    layer = Dropout(0.3, "block1.dropout1", name="block1_dropout1")
    layer.dtype_policy = keras.DTypePolicy(dtype)
    model = Classifier(images, layer(images))
    bits = mask_bits(KEYS, layer_key("block1.dropout1"), int(np.prod(shape)))
    kept = keras.ops.cast((bits >= lowest_kept(0.3)).reshape(6, *shape), dtype) * (1 / 0.7)
    ones = keras.ops.ones((6, *shape), dtype)
    words = keras.ops.convert_to_tensor(as_words(KEYS))
    dropped = model((ones, words), training=True)
    assert keras.backend.standardize_dtype(dropped.dtype) == dtype
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(keras.ops.cast(x, "float64")) for x in (dropped, kept)))
    for same in (model(ones), model((ones, words))):
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(keras.ops.cast(x, "float64")) for x in (same, ones)))


def test_from_images_alone_keras_drops_as_ever(keras: Any) -> None:
    from keras_reference.dropout import Classifier, Dropout

    images = keras.Input((1000,))
    model = Classifier(images, Dropout(0.5, "block1.dropout1", name="block1_dropout1")(images))
    ones = np.ones((6, 1000), np.float32)
    first, second = (np.asarray(model(ones, training=True)) for _ in range(2))
    assert set(np.unique(first)) == {0.0, 2.0}
    assert not np.array_equal(first, second)


def test_the_layer_is_made_again_from_its_settings(keras: Any) -> None:
    from keras_reference.dropout import Dropout

    layer = Dropout(0.25, "block1.dropout1", name="block1_dropout1")
    copy = Dropout.from_config(layer.get_config())
    assert (copy.rate, copy.layer, copy.name) == (layer.rate, layer.layer, layer.name)
