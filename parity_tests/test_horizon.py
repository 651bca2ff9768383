"""How long two trainings stay together: by a few real steps, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lightning_vgg import cli
from lightning_vgg.experiment.specs import DataSpec, ExperimentSpec
from lightning_vgg.images.dataset import load_dataset
from parity_tests.horizon import WRONG_DEFAULTS, _compare, _Snapshot, measure_horizons
from parity_tests.ladder import Ladder
from parity_tests.mutants import plain_spec

DATA = DataSpec(source="digits", image_size=8, train_images=300)


@pytest.mark.slow
def test_in_float64_only_a_wrong_default_goes_apart_and_from_the_first_step_on() -> None:
    found = list(measure_horizons(ExperimentSpec(model=plain_spec(), data=DATA), load_dataset(DATA), steps=4))
    assert len(found) == 3 * 5
    by_arm = {(each.precision, each.arm): each for each in found}
    for arm in ("Keras", "one ulp", "other kernels"):
        each = by_arm["float64", arm]
        assert each.steps == [1, 2, 3, 4]
        assert 0 < max(each.weights) < 1e-11
        assert (max(each.predictions), each.half) == (0, None)
        assert by_arm["float32", arm].weights[0] > 1e-9
    for precision in ("float64", "float32", "bfloat16"):
        assert all(by_arm[precision, switch].weights[0] > 1e-6 for switch in WRONG_DEFAULTS)
    # bfloat16 has three digits: rounding shows at once where it happens at every step. Keras may have the same kernels.
    assert by_arm["bfloat16", "other kernels"].weights[0] > 1e-4


def test_the_step_by_which_half_of_the_predictions_differ() -> None:
    data = replace(DATA, train_images=100)
    pair = Ladder(ExperimentSpec(model=plain_spec(), data=data), load_dataset(data)).pair("float32")
    ours = [_Snapshot({"w": np.ones(2)}, np.zeros(10, int)) for _ in range(4)]
    theirs = [
        _Snapshot({"w": np.array([1.0, 1 - distance])}, np.repeat([1, 0], [differing, 10 - differing]))
        for distance, differing in ((0.0, 0), (0.1, 1), (0.2, 2), (0.4, 4))
    ]
    found = _compare(pair, "float32", "Keras", [1, 2, 5, 9], ours, theirs)
    assert found.weights == pytest.approx([0, 0.1, 0.2, 0.4])
    assert (found.predictions, found.half) == ([0, 0.1, 0.2, 0.4], 5)


def test_a_backbone_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # as the command sets it, and taken back afterwards
    assert cli.run(["parity", "--horizon", "-c", "transfer/base.yaml"]) == 2
    assert "know only networks without model.backbone" in capsys.readouterr().err
