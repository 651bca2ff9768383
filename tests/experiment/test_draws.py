"""The table of chance: the same for the same seed and epoch, whatever else is switched on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from lightning_vgg.experiment.draws import (
    GOLDEN,
    MULTIPLIERS,
    SHIFTS,
    Draws,
    draw_epoch,
    layer_key,
    lowest_kept,
    mask_bits,
    mask_keys,
)
from lightning_vgg.experiment.specs import AugmentationSpec

FULL = AugmentationSpec(flip=True, shift=4, cutout=8)
TABLES = ("index", "flip", "shift", "cutout", "mask_key")


def equal_tables(first: Draws, second: Draws) -> set[str]:
    return {table for table in TABLES if np.array_equal(getattr(first, table), getattr(second, table))}


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 50))
def test_same_seed_and_epoch_same_table(seed: int, epoch: int, count: int) -> None:
    draws = draw_epoch(seed, epoch, count, 32, FULL)
    assert equal_tables(draws, draw_epoch(seed, epoch, count, 32, FULL)) == set(TABLES)
    assert sorted(draws.index) == list(range(count))
    assert (draws.index.dtype, draws.flip.dtype, draws.shift.dtype, draws.cutout.dtype) == ("i8", "?", "i8", "i8")
    assert (draws.flip.shape, draws.shift.shape, draws.cutout.shape) == ((count,), (count, 2), (count, 2))


def test_global_generators_play_no_part() -> None:
    first = draw_epoch(0, 0, 20, 32, FULL)
    np.random.seed(1)  # noqa: NPY002
    assert equal_tables(first, draw_epoch(0, 0, 20, 32, FULL)) == set(TABLES)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0), (1, 1), (2**32, 0)])
def test_another_seed_or_epoch_another_table(seed: int, epoch: int) -> None:
    assert not equal_tables(draw_epoch(0, 0, 50, 32, FULL), draw_epoch(seed, epoch, 50, 32, FULL))


def test_seed_and_epoch_do_not_stand_for_each_other() -> None:
    assert not equal_tables(draw_epoch(3, 5, 50, 32, FULL), draw_epoch(5, 3, 50, 32, FULL))


def test_the_tables_are_independent_of_each_other() -> None:
    """Streams of one state would show: the flip's and the shift's would rise and fall together."""
    draws = draw_epoch(0, 0, 20_000, 32, AugmentationSpec(flip=True, shift=16))
    columns = np.column_stack([draws.index, draws.flip, draws.shift, draws.cutout]).astype(float)
    correlation = np.corrcoef(columns, rowvar=False) - np.eye(6)
    assert np.abs(correlation).max() < 4 / np.sqrt(20_000)


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        (AugmentationSpec(flip=False, shift=4, cutout=8), {"flip"}),
        (AugmentationSpec(flip=True, shift=0, cutout=8), {"shift"}),
        (AugmentationSpec(flip=True, shift=3, cutout=8), {"shift"}),
        (AugmentationSpec(flip=True, shift=4, cutout=0), set()),
        (AugmentationSpec(), {"flip", "shift"}),
    ],
)
def test_a_switch_leaves_the_other_tables_as_they_were(other: AugmentationSpec, changed: set[str]) -> None:
    first, second = draw_epoch(0, 3, 100, 32, FULL), draw_epoch(0, 3, 100, 32, other)
    assert equal_tables(first, second) == set(TABLES) - changed


def test_without_augmentation_nothing_moves() -> None:
    draws = draw_epoch(0, 0, 1000, 32, AugmentationSpec())
    assert not draws.flip.any()
    assert not draws.shift.any()


COUNT = 100_000


def test_half_the_images_are_flipped() -> None:
    share = draw_epoch(0, 0, COUNT, 32, FULL).flip.mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(COUNT)  # 4 standard deviations


@pytest.mark.parametrize(
    ("table", "values"), [("shift", np.arange(-4, 5)), ("cutout", np.arange(32))], ids=["shift", "cutout"]
)
def test_shifts_and_centres_are_uniform_both_ends_included(table: str, values: np.ndarray) -> None:
    drawn = getattr(draw_epoch(0, 0, COUNT, 32, FULL), table)
    for axis in (0, 1):
        seen, counts = np.unique(drawn[:, axis], return_counts=True)
        assert_array_equal(seen, values)
        share = 1 / len(values)
        assert np.abs(counts / COUNT - share).max() < 4.5 * np.sqrt(share * (1 - share) / COUNT)


def test_rows_of_the_table() -> None:
    draws = draw_epoch(0, 0, 10, 32, FULL)
    rows = draws[3:7]
    for table in TABLES:
        assert_array_equal(getattr(rows, table), getattr(draws, table)[3:7])


def test_golden_numbers() -> None:
    """Printed once by numpy 2.4: a numpy that draws otherwise would train other networks from the same seed."""
    draws = draw_epoch(seed=0, epoch=0, count=8, image_size=32, augmentation=FULL)
    assert draws.index.tolist() == [3, 6, 4, 0, 7, 5, 2, 1]
    assert draws.flip.tolist() == [False, True, False, False, True, False, True, True]
    assert draws.shift.tolist() == [[4, 1], [4, -2], [-4, -3], [-4, -2], [-3, -1], [1, 0], [0, -1], [1, -1]]
    assert draws.cutout.tolist() == [[27, 6], [15, 21], [13, 25], [6, 22], [5, 5], [3, 0], [6, 4], [4, 14]]


# --- dropout masks ----------------------------------------------------------------------------------------------------

UNITS = 1000
IMAGES = 1000
BITS = mask_bits(mask_keys(0, 0, np.arange(IMAGES)), layer_key("block1.dropout1"), UNITS)


def splitmix64(state: int, count: int) -> list[int]:
    """As Steele, Lea and Flood wrote it, in whole numbers."""
    numbers = []
    for _ in range(count):
        state = (state + GOLDEN) % 2**64
        number = state
        for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
            number = (number ^ (number >> shift)) * multiplier % 2**64
        numbers.append(number ^ (number >> SHIFTS[-1]))
    return numbers


def test_the_hash_is_splitmix64() -> None:
    # As Rosetta Code prints them for this seed.
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    key, layer = int(mask_keys(5, 2, np.array([7]))[0]), layer_key("head1.dropout1")
    (start,) = splitmix64(((key ^ layer) - GOLDEN) % 2**64, 1)
    expected = np.array(splitmix64((start - GOLDEN) % 2**64, 3), np.uint64)
    assert_array_equal(mask_bits(np.array([key]), layer, 10)[0], expected.view(np.int16)[:10])


def test_golden_masks() -> None:
    """Printed once: other numbers would train other networks from the same seed."""
    keys = mask_keys(seed=3, epoch=2, images=np.array([0, 1]))
    assert mask_bits(keys, layer_key("block1.dropout1"), 6).tolist() == [
        [-17905, -32371, 31402, 8689, -10222, 23925],
        [6710, -2435, -29631, -13588, 24476, 12962],
    ]


def test_a_mask_belongs_to_its_image_wherever_it_stands() -> None:
    images = np.array([4, 90, 4])
    bits = mask_bits(mask_keys(0, 0, images), layer_key("block1.dropout1"), UNITS)
    assert_array_equal(bits, BITS[images])
    assert_array_equal(mask_bits(mask_keys(0, 0, images), layer_key("block1.dropout1"), 13), bits[:, :13])
    draws = draw_epoch(9, 4, 30, 32, FULL)
    assert_array_equal(draws.mask_key, mask_keys(9, 4, draws.index))


def test_the_bits_are_uniform() -> None:
    """Chi-square of a million 16-bit numbers in 256 bins by their upper and by their lower halves."""
    for part in (BITS >> 8, BITS & 0xFF):
        _, counts = np.unique(part, return_counts=True)
        assert len(counts) == 256
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_dropped_units_have_their_share_and_know_nothing_of_each_other(rate: float) -> None:
    def dropped(seed: int = 0, epoch: int = 0, first: int = 0, layer: str = "block1.dropout1") -> np.ndarray:
        keys = mask_keys(seed, epoch, np.arange(first, first + IMAGES))
        return (mask_bits(keys, layer_key(layer), UNITS) < lowest_kept(rate)) - rate

    flat, variance = dropped().ravel(), rate * (1 - rate)
    assert abs(flat.mean()) < 4.5 * math.sqrt(variance / flat.size)
    # Units from one number, and those further away; the same unit of other images, epochs, seeds and layers.
    others = [np.roll(flat, shift) for shift in (1, 2, 3, 4, 8, 32, UNITS, 7 * UNITS)]
    others += [dropped(epoch=1), dropped(seed=1), dropped(first=IMAGES), dropped(layer="block2.dropout1")]
    for other in others:
        assert abs((flat * other.ravel()).mean()) < 4.5 * variance / math.sqrt(flat.size)


def test_rates_at_the_ends() -> None:
    assert (lowest_kept(0.0), lowest_kept(0.5), lowest_kept(1 - 1e-9)) == (-(2**15), 0, 2**15 - 1)
    assert isinstance(lowest_kept(0.25), int)
