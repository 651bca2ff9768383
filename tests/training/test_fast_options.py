"""What configs/vgg/fast.yaml is made of, each option against a few lines of numpy or against its own definition."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BIN, CONFIGS, Command, history_without_seconds, run_here
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file
from sklearn.decomposition import PCA
from torch import nn

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import plan_backbone, plan_model
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.network_plan import NetworkError, plan_network
from lightning_vgg.experiment.semantics import TORCH
from lightning_vgg.experiment.specs import (
    AugmentationSpec,
    BackboneSpec,
    DataSpec,
    ExperimentSpec,
    ModelSpec,
    NetworkSpec,
    OptimizerSpec,
    TricksSpec,
)
from lightning_vgg.training.augmented_test import augmented_logits
from lightning_vgg.training.blocks import build_network, pass_inputs_on
from lightning_vgg.training.lookahead import slow_share
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.muon import MuonSGD, orthogonalized
from lightning_vgg.training.optim import build_optimizer
from lightning_vgg.training.whitening import EPSILON, whitening_kernels
from lightning_vgg.weights.source import find_source

FAST = f"""
    fit -c {CONFIGS}/vgg/fast.yaml --data.source digits --data.train_images 300 --data.batch_size 64
    --trainer.logger false --trainer.precision 32-true --model.network.filters [24,8,8,8]
"""

# --- whitening --------------------------------------------------------------------------------------------------------


def test_whitening_kernels_are_those_of_scikit_learn() -> None:
    images = np.random.default_rng(0).normal(size=(200, 3, 9, 9)).cumsum(-1).cumsum(-2)
    images -= images.mean((0, 2, 3), keepdims=True)
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), (2, 3)).transpose(0, 2, 3, 1, 4, 5)
    patches = patches.reshape(-1, 12)
    analysis = PCA().fit(patches - patches.mean(0))
    kernels = whitening_kernels(torch.from_numpy(images), 2).numpy().reshape(24, 12)
    assert_allclose(kernels[12:], -kernels[:12])
    # Signs of eigenvectors are anybody's choice; PCA divides by n - 1 and takes the mean away, which is not quite 0.
    expected = analysis.components_ / np.sqrt(analysis.explained_variance_ + EPSILON)[:, None]
    assert_allclose(np.abs(kernels[:12]), np.abs(expected), rtol=0.05, atol=0.02)
    whitened = patches @ kernels[:12].T
    assert_allclose(whitened.T @ whitened / len(whitened), np.eye(12), atol=0.02)


def test_the_whitening_layer_stays_and_its_bias_trains_for_some_epochs(command: Command, tmp_path: Path) -> None:
    states = {}
    for epochs in ("1", "2", "3"):
        command(f"""
            {FAST} --name {epochs} --trainer.max_epochs {epochs} --model.tricks.whitening_bias_epochs 2
            --model.tricks.lookahead false --model.schedule.name constant --model.schedule.warmup 0
        """)
        checkpoint = tmp_path / "runs" / "vgg_fast" / epochs / "checkpoints" / "last.ckpt"
        states[epochs] = torch.load(checkpoint, weights_only=True)["state_dict"]
    kernels, biases = (
        [states[epochs][f"network.block1.conv1.{end}"] for epochs in "123"] for end in ("weight", "bias")
    )
    assert torch.equal(kernels[0], kernels[1]) and torch.equal(kernels[0], kernels[2])
    assert_array_equal(kernels[0][12:], -kernels[0][:12])
    assert not torch.equal(biases[0], biases[1])
    assert torch.equal(biases[1], biases[2])


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (NetworkSpec("conv(2x2)", [23], units=[]), "block1.conv1 needs 24 filters"),
        (NetworkSpec("batch norm - conv", [24], units=[]), "needs a convolution as the first layer"),
        (NetworkSpec(filters=[]), "needs a convolution as the first layer"),
    ],
)
def test_a_network_that_cannot_whiten_is_refused(network: NetworkSpec, complaint: str) -> None:
    with pytest.raises(NetworkError, match=complaint):
        plan_model(ExperimentSpec(model=ModelSpec(network, tricks=TricksSpec(whitening=True))), 10)


def test_whitening_of_features_is_refused() -> None:
    spec = ModelSpec(tricks=TricksSpec(whitening=True), backbone=BackboneSpec("none"))
    backbone = plan_backbone(spec.backbone, find_source(spec.backbone, TORCH), 32)
    with pytest.raises(ExperimentError, match="sees pixels"):
        plan_model(ExperimentSpec(model=spec), 10, backbone)


# --- initialization, logits -------------------------------------------------------------------------------------------


def test_identity_initialization_passes_inputs_on() -> None:
    spec = NetworkSpec("conv(linear)", [5], units=[])
    network = build_network(plan_network(spec, 6, 2, channels=3), TORCH)
    pass_inputs_on(network)
    images = torch.randn(2, 3, 6, 6)
    outputs = network.get_submodule("block1")(images) - network.get_submodule("block1.conv1").bias.view(1, -1, 1, 1)
    assert_allclose(outputs[:, :3].detach(), images, atol=1e-6)
    assert outputs[:, 3:].detach().abs().min() > 0  # the others are drawn


def test_logit_scale_multiplies_the_logits() -> None:
    spec = ModelSpec(NetworkSpec(filters=[2], units=[]))
    torch.manual_seed(0)
    plain = VGGClassifier(ExperimentSpec(model=spec, data=DataSpec(image_size=8)), 3).eval()
    torch.manual_seed(0)
    spec = replace(spec, tricks=TricksSpec(logit_scale=0.25))
    scaled = VGGClassifier(ExperimentSpec(model=spec, data=DataSpec(image_size=8)), 3).eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(scaled(images), plain(images) / 4)


# --- optimizer --------------------------------------------------------------------------------------------------------


def test_batch_norm_biases_move_faster_and_decay_alike() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    spec = OptimizerSpec("sgd", 0.01, weight_decay=0.1)
    optimizer = build_optimizer(network, spec, TORCH, tricks=TricksSpec(batch_norm_bias_factor=8.0))
    before = [parameter.detach().numpy().copy() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for old, new, (name, _) in zip(before, network.parameters(), network.named_parameters(), strict=True):
        factor = 8 if name == "1.bias" else 1
        assert_allclose(new.detach().numpy(), old - 0.01 * factor - 0.01 * 0.1 * old, rtol=1e-12)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_orthogonalizing_keeps_directions_and_evens_out_singular_values() -> None:
    for shape in ((5, 8), (8, 5)):
        matrix = np.random.default_rng(0).normal(size=shape)
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
        singular /= np.linalg.norm(singular)
        for _ in range(3):
            singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
        assert singular.min() > 0.3 and singular.max() < 1.3
        found = orthogonalized(torch.from_numpy(matrix)).numpy()
        assert_allclose(found, left * singular @ right, atol=1e-13)


def test_muon_moves_kernels_as_torchs_own_and_keeps_their_norm() -> None:
    """Torch's is for matrices, gives them no norm, and averages where we add, which orthogonalizing takes away."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(6, 2, 3, 3))
    with torch.no_grad():
        kernel.mul_(6**0.5 / kernel.norm())
    ours = MuonSGD([{"params": [kernel], "muon": True}], 0.25)
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    theirs = torch.optim.Muon([matrix], 0.25, weight_decay=0.0, momentum=0.6, ns_steps=3)
    start = kernel.detach().clone()
    for _ in range(4):
        kernel.grad = torch.randn_like(kernel)
        matrix.grad = kernel.grad.flatten(1).clone()
        with torch.no_grad():
            matrix.mul_(6**0.5 / matrix.norm())
        ours.step()
        theirs.step()
        assert_allclose(kernel.detach().flatten(1), matrix.detach(), atol=4e-3)  # bfloat16 has three digits
    assert (kernel - start).abs().max() > 0.1


def test_muon_is_for_kernels_alone_and_all_else_is_as_without_it() -> None:
    spec = OptimizerSpec("sgd", 0.5, 0.875, nesterov=True, weight_decay=0.1)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2)).double()
    gradients = [torch.randn_like(parameter) for parameter in network.parameters()]
    start = [parameter.detach().clone() for parameter in network.parameters()]
    after = {}
    for rate in (0.25, None):
        optimizer = build_optimizer(network, spec, TORCH, tricks=TricksSpec(muon_rate=rate))
        for parameter, gradient, value in zip(network.parameters(), gradients, start, strict=True):
            parameter.data, parameter.grad = value.clone(), gradient.clone()
        optimizer.step()
        after[rate] = [parameter.detach().clone() for parameter in network.parameters()]
    for number, (with_muon, without) in enumerate(zip(after[0.25], after[None], strict=True)):
        if number:
            assert_allclose(with_muon, without, rtol=1e-14)
    kernel = start[0] * 3**0.5 / start[0].norm() - 0.25 * orthogonalized(gradients[0].flatten(1)).view_as(start[0])
    assert_allclose(after[0.25][0], kernel, rtol=1e-12)


def test_muon_beside_another_optimizer_than_sgd_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"muon_rate needs optimizer.name sgd, not adam"):
        ModelSpec(optimizer=OptimizerSpec("adam"), tricks=TricksSpec(muon_rate=0.1))


def test_lookahead_ends_on_the_slow_weights(command: Command, tmp_path: Path) -> None:
    """Twelve steps of plain SGD, replayed in numpy from the weights that each step would have had."""
    settings = f"""
        fit -c {CONFIGS}/quickstart.yaml --trainer.logger false --data.train_images 384 --data.batch_size 32
        --data.image_size 8 --data.validation_fraction 0 --trainer.max_epochs 1 --model.network.filters []
        --model.network.units [] --model.schedule.name constant --model.optimizer.name sgd
        --model.optimizer.learning_rate 0.01 --model.semantics torch
    """
    starts = tmp_path / "start.safetensors"
    random = np.random.default_rng(0)
    start = {"classifier.weight": random.normal(size=(10, 192)) * 0.1, "classifier.bias": np.zeros(10)}
    save_file(start, starts)

    def weights_after(steps: int, init: Path, name: str, *more: str) -> np.ndarray:
        command(f"{settings} --model.init_from {init} --name {name} --trainer.limit_train_batches {steps}", *more)
        checkpoint = tmp_path / "runs" / "quickstart" / name / "checkpoints" / "last.ckpt"
        return torch.load(checkpoint, weights_only=True)["state_dict"]["network.classifier.weight"].double().numpy()

    after_five = weights_after(5, starts, "five")
    ours = weights_after(5, starts, "lookahead", "--model.tricks.lookahead", "true")
    share = slow_share(5, 5)
    assert_allclose(ours, share * start["classifier.weight"] + (1 - share) * after_five, atol=1e-7)
    assert share == pytest.approx(0.95**5)
    # Two steps further, nothing falls due but the end, which goes back to the slow weights.
    seven = weights_after(7, starts, "seven", "--model.tricks.lookahead", "true")
    share = slow_share(5, 7)
    assert_allclose(seven, share * start["classifier.weight"] + (1 - share) * after_five, atol=1e-7)


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_alternating_flips_show_each_side_of_an_image_in_every_other_epoch() -> None:
    spec = AugmentationSpec(flip="alternating")
    by_image = []
    for epoch in range(4):
        draws = draw_epoch(3, epoch, 1000, 32, spec)
        flipped = np.empty(1000, bool)
        flipped[draws.index] = draws.flip
        by_image.append(flipped)
    assert_array_equal(by_image[0], ~by_image[1])
    assert_array_equal(by_image[0], by_image[2])
    assert_array_equal(by_image[1], by_image[3])
    assert 0.4 < by_image[0].mean() < 0.6
    assert not np.array_equal(
        by_image[0][draw_epoch(4, 0, 1000, 32, spec).index], draw_epoch(4, 0, 1000, 32, spec).flip
    )


def test_test_time_augmentation_is_the_mean_it_says() -> None:
    weights = torch.randn(3 * 5 * 5, 4, dtype=torch.float64)

    def network(images: torch.Tensor) -> torch.Tensor:
        return (images**2).flatten(1) @ weights

    images = torch.randn(6, 3, 5, 5, dtype=torch.float64)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")

    def both(pixels: np.ndarray) -> np.ndarray:
        mirrored = np.flip(pixels, 3).copy()
        return sum((side**2).reshape(6, -1) @ weights.numpy() / 2 for side in (pixels, mirrored))

    plain = network(images)
    assert_allclose(augmented_logits(network, images, plain, "mirror").numpy(), both(images.numpy()))
    expected = both(images.numpy()) / 2 + both(padded[..., :5, :5]) / 4 + both(padded[..., 2:, 2:]) / 4
    assert_allclose(augmented_logits(network, images, plain, "mirror_and_shift").numpy(), expected)


# --- all of them together ---------------------------------------------------------------------------------------------


def test_the_fast_configuration_is_killed_and_goes_on_to_the_last_bit_and_tests_both_ways(
    command: Command, tmp_path: Path
) -> None:
    runs = tmp_path / "runs" / "vgg_fast"
    settings = f"{FAST} --trainer.max_epochs 4 --model.tricks.whitening_bias_epochs 2"
    said = command(settings, "--name", "whole").stdout
    record = json.loads((runs / "whole" / "run.json").read_text())
    assert f"test_acc {record['augmented_test_acc']:.2%}  with test-time augmentation" in said
    assert record["frozen_parameters"] == 24 * 12
    process = subprocess.Popen(
        [BIN / "lightning-vgg", *settings.split(), "--name", "stopped"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    history, deadline = runs / "stopped" / "history.csv", time.monotonic() + 120
    while not (history.exists() and len(history.read_text().splitlines()) > 2):  # in the third epoch, the bias frozen
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    command(f"{settings} --name stopped --ckpt_path last")
    assert history_without_seconds(runs / "stopped") == history_without_seconds(runs / "whole")
    states = [
        torch.load(runs / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("stopped", "whole")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize(
    ("experiment", "setting"),
    [
        (FAST, "model.tricks.whitening"),
        (
            "fit -c transfer/base.yaml -c transfer/gradual.yaml --model.backbone.weights none --data.source digits "
            "--data.train_images 100",
            "model.backbone.unfreeze",
        ),
    ],
)
def test_what_one_process_alone_can_train_is_refused(experiment: str, setting: str, tmp_path: Path) -> None:
    error = run_here(tmp_path)(f"{experiment} --trainer.devices 2 --trainer.accelerator cpu", status=2).stderr
    assert f"{setting} needs trainer.devices 1" in error
    assert not list(tmp_path.glob("runs/*/*"))
