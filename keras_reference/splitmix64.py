"""The bits of dropout masks by ``keras.ops``: 64-bit integers, or pairs of 32-bit words where there are none (JAX)."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_reference.backend import Tensor
from lightning_vgg.experiment.draws import GOLDEN, MULTIPLIERS, SHIFTS

Words = tuple[Tensor, Tensor]
"""The upper and the lower half of 64-bit integers, uint32."""


def mask_bits(keys: Tensor, layer: int, units: int) -> Tensor:
    """As `lightning_vgg.experiment.draws.mask_bits`, int16 (B, units).

    Args:
        keys: of the images, int32 (B, 2): the lower word of each, and the upper one.
        layer: its key.
        units: how many.
    """
    counters = np.arange(-(-units // 4), dtype=np.uint64) * np.uint64(GOLDEN)
    if keras.config.backend() == "jax":
        numbers = _mix_words(_add(_mix_words(_xor(_split(keys), _constant(layer))), _constant(counters)))
        upper, lower = numbers
        bits = ops.view(ops.stack([lower, upper], -1), "int16")
    else:
        bits = ops.view(_mix(_mix(ops.view(keys, "int64") ^ layer) + counters.view(np.int64)), "int16")
    return ops.reshape(bits, (-1, 4 * len(counters)))[:, :units]


def as_words(keys: np.ndarray) -> np.ndarray:
    """int64 (B,) -> int32 (B, 2), as :func:`mask_bits` takes them."""
    return np.ascontiguousarray(keys).view("<i4").reshape(-1, 2)


def _mix(numbers: Tensor) -> Tensor:
    """SplitMix64's finalizer of each int64: signed numbers wrap like unsigned ones."""
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        numbers = _xor_shifted(numbers, shift) * np.uint64(multiplier).astype(np.int64)
    return _xor_shifted(numbers, SHIFTS[-1])


def _xor_shifted(numbers: Tensor, shift: int) -> Tensor:
    # A signed shift to the right copies the sign, which the mask takes out again.
    return numbers ^ (ops.right_shift(numbers, shift) & (2 ** (64 - shift) - 1))


def _mix_words(numbers: Words) -> Words:
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        numbers = _multiply(_xor(numbers, _shifted(numbers, shift)), multiplier)
    return _xor(numbers, _shifted(numbers, SHIFTS[-1]))


def _split(keys: Tensor) -> Words:
    words = ops.view(keys, "uint32")
    return words[:, 1:], words[:, :1]


def _constant(numbers: int | np.ndarray) -> Words:
    numbers = np.asarray(numbers).astype(np.uint64)
    return (numbers >> np.uint64(32)).astype(np.uint32), numbers.astype(np.uint32)


def _xor(first: Words, second: Words) -> Words:
    return first[0] ^ second[0], first[1] ^ second[1]


def _add(first: Words, second: Words) -> Words:
    lower = first[1] + second[1]
    return first[0] + second[0] + ops.cast(lower < second[1], "uint32"), lower


def _shifted(numbers: Words, shift: int) -> Words:
    """To the right, by less than 32 bits."""
    upper, lower = numbers
    return upper >> shift, (lower >> shift) | (upper << (32 - shift))


def _multiply(numbers: Words, constant: int) -> Words:
    """The lower 64 bits of the product: 16 bits of the lower words at a time, so that no carry is lost."""
    upper, lower = numbers
    high, low = _constant(constant)
    parts = lower & 0xFFFF, lower >> 16
    factors = low & np.uint32(0xFFFF), low >> np.uint32(16)
    middle = parts[1] * factors[0] + ((parts[0] * factors[0]) >> 16)
    other = parts[0] * factors[1] + (middle & 0xFFFF)
    carried = parts[1] * factors[1] + (middle >> 16) + (other >> 16)
    return carried + upper * low + lower * high, lower * low
