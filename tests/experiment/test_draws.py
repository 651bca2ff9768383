"""The table of chance: the same for the same seed and epoch, whatever else is switched on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torchvision.transforms import RandomResizedCrop

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
OTHERS = {
    "vertical_flip": True,
    "rotation": 0.2,
    "zoom": 0.3,
    "contrast": 0.5,
    "brightness": 0.4,
    "erasing": 0.6,
    "mixup": 0.3,
    "cutmix": 1.5,
    "resized_crop": 0.3,
}
ALL = replace(FULL, **OTHERS)
TABLES = ("index", "flip", "shift", "cutout", "mask_key")
MIXING = {"mixing.share", "mixing.blend", "mixing.pasted"}


def tables_of(draws: Draws) -> dict[str, np.ndarray]:
    """Those that are drawn, by name."""
    mixing = {} if draws.mixing is None else vars(draws.mixing)
    tables = vars(draws) | {f"mixing.{name}": table for name, table in mixing.items()}
    return {name: table for name, table in tables.items() if isinstance(table, np.ndarray)}


def equal_tables(first: Draws, second: Draws) -> set[str]:
    one, other = tables_of(first), tables_of(second)
    return {name for name in one.keys() & other.keys() if np.array_equal(one[name], other[name])}


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 50))
def test_same_seed_and_epoch_same_table(seed: int, epoch: int, count: int) -> None:
    """So a resumed training sees what an undisturbed one sees."""
    draws = draw_epoch(seed, epoch, count, 32, ALL)
    tables = tables_of(draws)
    assert equal_tables(draws, draw_epoch(seed, epoch, count, 32, ALL)) == tables.keys() and len(tables) == 15
    assert {len(table) for table in tables.values()} == {count}
    assert sorted(draws.index) == list(range(count))
    assert (draws.index.dtype, draws.flip.dtype, draws.shift.dtype, draws.cutout.dtype) == ("i8", "?", "i8", "i8")
    assert (draws.flip.shape, draws.shift.shape, draws.cutout.shape) == ((count,), (count, 2), (count, 2))


def test_global_generators_play_no_part() -> None:
    first = draw_epoch(0, 0, 20, 32, FULL)
    np.random.seed(1)  # noqa: NPY002
    assert equal_tables(first, draw_epoch(0, 0, 20, 32, FULL)) == set(TABLES)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0), (1, 1), (2**32, 0)])
def test_another_seed_or_epoch_another_table(seed: int, epoch: int) -> None:
    assert not equal_tables(draw_epoch(0, 0, 50, 32, ALL), draw_epoch(seed, epoch, 50, 32, ALL))


def test_seed_and_epoch_do_not_stand_for_each_other() -> None:
    assert not equal_tables(draw_epoch(3, 5, 50, 32, FULL), draw_epoch(5, 3, 50, 32, FULL))


def test_the_tables_are_independent_of_each_other() -> None:
    """Streams of one state would show: the flip's and the shift's would rise and fall together."""
    draws = draw_epoch(0, 0, 20_000, 32, replace(ALL, shift=16))
    angle, zoom = np.arctan2(draws.turn[:, 1], draws.turn[:, 0]), np.hypot(draws.turn[:, 0], draws.turn[:, 1])
    tables = [draws.index, draws.flip, draws.shift, draws.cutout, draws.vertical_flip, angle, zoom, draws.contrast]
    tables += [draws.brightness, draws.erased[:, 0, 0], draws.mixing.order, draws.mixing.blend, draws.crop[:, 0, 0]]
    columns = np.column_stack(tables).astype(float)
    correlation = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
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


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("vertical_flip", {"vertical_flip"}),
        ("rotation", {"turn"}),
        ("zoom", {"turn"}),
        ("contrast", {"contrast"}),
        ("brightness", {"brightness"}),
        ("erasing", {"erased"}),
        ("mixup", MIXING),  # the others are then mixed by CutMix, too
        ("cutmix", MIXING),
        ("resized_crop", {"crop"}),
    ],
)
def test_what_is_switched_off_leaves_the_other_tables_as_they_were(name: str, changed: set[str]) -> None:
    without = replace(ALL, **{name: getattr(AugmentationSpec(), name)})
    first, second = draw_epoch(0, 3, 100, 32, ALL), draw_epoch(0, 3, 100, 32, without)
    assert equal_tables(first, second) == tables_of(first).keys() - changed
    alone = draw_epoch(0, 3, 100, 32, AugmentationSpec(**{name: OTHERS[name]}))
    assert tables_of(alone).keys() - set(TABLES) <= changed | {"mixing.order"}
    assert set(TABLES) & equal_tables(first, alone) == {"index", "cutout", "mask_key"}


def test_what_is_off_is_not_drawn() -> None:
    assert tables_of(draw_epoch(0, 0, 10, 32, FULL)).keys() == set(TABLES)


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


@pytest.mark.parametrize("rotation", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("zoom", [0.0, 0.3])
def test_angles_and_zooms_are_uniform(rotation: float, zoom: float) -> None:
    turn = draw_epoch(0, 0, COUNT, 32, AugmentationSpec(rotation=rotation, zoom=zoom)).turn
    if not rotation and not zoom:
        assert turn is None
        return
    angles, zooms = np.arctan2(turn[:, 1], turn[:, 0]) / (2 * np.pi), np.hypot(turn[:, 0], turn[:, 1])
    for values, centre, most in ((angles, 0, rotation), (zooms, 1, zoom)):
        if most:
            assert uniform(values, centre - most, centre + most)
        else:
            assert_allclose(values, centre, rtol=1e-15, atol=1e-15)


def uniform(values: np.ndarray, low: float, high: float) -> bool:
    """By Kolmogorov and Smirnov."""
    return low <= values.min() and values.max() <= high and follows(values, scipy.stats.uniform(low, high - low).cdf)


def follows(values: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> bool:
    return scipy.stats.kstest(values, cdf).pvalue > 1e-4


def test_colours_are_uniform_and_half_stand_on_their_heads() -> None:
    draws = draw_epoch(0, 0, COUNT, 32, ALL)
    assert uniform(draws.contrast, 0.5, 1.5)
    assert uniform(draws.brightness, -0.4 * 255, 0.4 * 255)
    assert abs(draws.vertical_flip.mean() - 0.5) < 4 * 0.5 / np.sqrt(COUNT)


def test_erased_rectangles() -> None:
    """Some; heights and widths are roots of areas from 2 to 33 %, in whole pixels; all places inside are alike."""
    first, end = np.moveaxis(draw_epoch(0, 0, COUNT, 32, ALL).erased, 1, 0)
    some = (end > first).all(1)
    assert abs(some.mean() - 0.6) < 4 * np.sqrt(0.24 / COUNT)
    assert not first[~some].any() and not end[~some].any()
    first, sides = first[some], (end - first)[some]
    assert (first >= 0).all() and (first + sides <= 32).all()
    edges = ((np.arange(5, 19) - 0.5) / 32).clip(np.sqrt(0.02), np.sqrt(0.33)) ** 2
    for side, start in zip(sides.T, first.T, strict=True):
        expected = np.diff(np.append(edges, 0.33)) / 0.31 * len(side)
        assert scipy.stats.chisquare(np.bincount(side, minlength=19)[5:], expected).pvalue > 1e-4
        places = np.bincount(start[side == 10], minlength=23)
        assert len(places) == 23 and scipy.stats.chisquare(places).pvalue > 1e-4
    assert abs(np.corrcoef(sides.T)[0, 1]) < 4 / np.sqrt(len(sides))


@pytest.mark.parametrize(("size", "least_area"), [(32, 0.08), (7, 0.95), (100, 0.99), (2, 0.01)])
def test_crops_are_those_of_torchvision(size: int, least_area: float) -> None:
    """Also where some round to nothing, and where most do not fit."""
    crop = draw_epoch(0, 0, COUNT, size, AugmentationSpec(resized_crop=least_area)).crop
    ours = np.column_stack([crop[:, 0], crop[:, 1] - crop[:, 0]])
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] > 0).all() and (crop[:, 1] <= size).all()
    torch.manual_seed(0)
    image = torch.empty(1, size, size)
    theirs = np.array([RandomResizedCrop.get_params(image, [least_area, 1.0], [3 / 4, 4 / 3]) for _ in range(5000)])
    for columns in ([0, 1, 2, 3], [2, 3]):
        assert alike(ours[:, columns], theirs[:, columns])


def alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether rows of whole numbers may come from one distribution, by chi-square; rare ones are counted together."""
    _, kind = np.unique(np.concatenate([ours, theirs]), axis=0, return_inverse=True)
    counts = np.stack([np.bincount(part, minlength=kind.max() + 1) for part in (kind[: len(ours)], kind[len(ours) :])])
    rare = counts.sum(0) < 100
    counts = np.column_stack([counts[:, ~rare], counts[:, rare].sum(1)])
    return scipy.stats.chi2_contingency(counts[:, counts.any(0)]).pvalue > 1e-4


@pytest.mark.parametrize("whole", [0.0, 1.0])
def test_a_crop_of_all_of_the_area_is_none(whole: float) -> None:
    assert draw_epoch(0, 0, 10, 32, AugmentationSpec(resized_crop=whole)).crop is None


def test_shares_of_mixup_are_of_the_beta_distribution() -> None:
    mixing = draw_epoch(0, 0, COUNT, 32, AugmentationSpec(mixup=0.3)).mixing
    assert follows(mixing.share, scipy.stats.beta(0.3, 0.3).cdf)
    assert mixing.share is mixing.blend and mixing.pasted is None


def test_rectangles_of_cutmix_have_its_area_and_lie_anywhere_inside() -> None:
    mixing = draw_epoch(0, 0, COUNT, 32, AugmentationSpec(cutmix=1.5)).mixing
    assert mixing.blend is None
    first, end = np.moveaxis(mixing.pasted, 1, 0)
    height, width = (end - first).T
    assert_array_equal(height, width)
    assert first.min() == 0 and end.max() == 32
    assert_array_equal(mixing.share, 1 - height * width / 32**2)
    edges = ((np.arange(1, 33) - 0.5) / 32) ** 2
    expected = np.diff(scipy.stats.beta(1.5, 1.5).cdf(np.concatenate([[0], edges, [1]]))) * COUNT
    assert scipy.stats.chisquare(np.bincount(height, minlength=33), expected).pvalue > 1e-4
    places = np.bincount(first[height == 16, 1], minlength=17)
    assert len(places) == 17 and scipy.stats.chisquare(places).pvalue > 1e-4


def test_with_both_each_image_is_mixed_by_one() -> None:
    mixing = draw_epoch(0, 0, COUNT, 32, AugmentationSpec(mixup=0.3, cutmix=1.5)).mixing
    area = (mixing.pasted[:, 1] - mixing.pasted[:, 0]).prod(1) / 32**2
    blended = mixing.blend < 1
    assert not area[blended].any()
    assert abs(blended.mean() - 0.5) < 0.01  # a blend may round to 1
    assert_array_equal(mixing.share, mixing.blend * (1 - area))


def test_partners_are_a_random_permutation_of_the_batch() -> None:
    draws = draw_epoch(0, 0, 40_000, 32, AugmentationSpec(mixup=1.0))
    partners = np.stack([draws[first : first + 4].mixing.partners() for first in range(0, 40_000, 4)])
    _, counts = np.unique(partners, axis=0, return_counts=True)
    assert_array_equal(np.sort(partners), np.broadcast_to(np.arange(4), partners.shape))
    assert len(counts) == 24 and scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("augmentation", [FULL, ALL], ids=["some", "all"])
def test_rows_of_the_table(augmentation: AugmentationSpec) -> None:
    draws = draw_epoch(0, 0, 10, 32, augmentation)
    rows = np.array([8, 2])
    for chosen in (slice(3, 7), rows):
        assert tables_of(draws[chosen]).keys() == tables_of(draws).keys()
        for name, table in tables_of(draws[chosen]).items():
            assert_array_equal(table, tables_of(draws)[name][chosen])


def test_golden_numbers() -> None:
    """Printed once by numpy 2.4: a numpy that draws otherwise would train other networks from the same seed."""
    draws = draw_epoch(seed=0, epoch=0, count=8, image_size=32, augmentation=FULL)
    assert draws.index.tolist() == [3, 6, 4, 0, 7, 5, 2, 1]
    assert draws.flip.tolist() == [False, True, False, False, True, False, True, True]
    assert draws.shift.tolist() == [[4, 1], [4, -2], [-4, -3], [-4, -2], [-3, -1], [1, 0], [0, -1], [1, -1]]
    assert draws.cutout.tolist() == [[27, 6], [15, 21], [13, 25], [6, 22], [5, 5], [3, 0], [6, 4], [4, 14]]


def test_golden_numbers_of_the_others() -> None:
    draws = draw_epoch(seed=0, epoch=0, count=4, image_size=32, augmentation=ALL)
    mixing = draws.mixing
    assert draws.vertical_flip.tolist() == [False, True, True, True]
    assert_allclose(
        draws.turn, [[0.995207, 0.2791], [0.704481, 0.098148], [0.307934, -0.817513], [0.291142, 0.832961]], atol=1e-6
    )
    assert_allclose(draws.contrast, [0.881443, 0.581237, 1.465644, 1.16965], atol=1e-6)
    assert_allclose(draws.brightness, [28.59459, 68.736981, 19.246386, -100.155435], atol=1e-6)
    assert draws.erased.tolist() == [[[0, 0], [0, 0]], [[16, 0], [21, 10]], [[11, 11], [20, 24]], [[7, 13], [24, 27]]]
    assert_allclose(mixing.order, [0.494657, 0.883842, 0.251793, 0.149556], atol=1e-6)
    assert_allclose(mixing.share, [0.234375, 0.389648, 0.920898, 0.234375], atol=1e-6)
    assert_allclose(mixing.blend, [1.0, 1.0, 1.0, 1.0], atol=1e-6)
    assert mixing.pasted.tolist() == [[[4, 0], [32, 28]], [[2, 2], [27, 27]], [[16, 18], [25, 27]], [[3, 2], [31, 30]]]
    assert draws.crop.tolist() == [[[4, 3], [24, 24]], [[4, 0], [30, 32]], [[4, 2], [24, 20]], [[7, 9], [31, 28]]]

    by_mixup = draw_epoch(seed=0, epoch=0, count=4, image_size=32, augmentation=AugmentationSpec(mixup=0.3)).mixing
    assert_allclose(by_mixup.share, [4.8e-05, 1.0, 0.03268, 0.018956], atol=1e-6)


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
