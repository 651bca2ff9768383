"""Other kernels compute the same, by rounding alone: forward, backward, and batch norm's statistics."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.semantics import KERAS, TORCH, Semantics
from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec, NetworkSpec
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.kernels import Kernels, channels_first, reordered, written_out
from lightning_vgg.training.module import VGGClassifier

NETWORK = NetworkSpec(
    "conv(5x5, stride 2) - batch norm - conv(valid) - batch norm(no scale) - maxpool", [6, 8], "dense - batch norm", [7]
)


@pytest.mark.parametrize("semantics", [KERAS, TORCH])
@pytest.mark.parametrize("kernels", [reordered, channels_first, written_out])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_results_differ_by_rounding_and_do_differ(
    dtype: torch.dtype, limit: float, kernels: Kernels, semantics: Semantics
) -> None:
    torch.manual_seed(0)
    network = build_network(plan_network(NETWORK, 32, num_classes=3), semantics).to(dtype)
    other = copy.deepcopy(network)
    images = torch.rand(16, 3, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
    found = []
    for each, arithmetic in ((network, None), (other, kernels)):
        if arithmetic is None:
            logits = each(images)
        else:
            with arithmetic():
                logits = each(images)
        logits.square().sum().backward()
        found.append([logits.detach(), *(parameter.grad for parameter in each.parameters()), *each.buffers()])
    apart = []
    for ours, theirs in zip(*found, strict=True):
        size = ours.double().abs().max()
        if size > 1e-3:  # biases that batch norm cancels have no gradient but rounding
            apart.append(float((ours - theirs).abs().max() / size))
    assert 0 < max(apart) < limit


def test_batch_norm_under_autocast_is_as_precise_as_usual() -> None:
    norm, images = torch.nn.BatchNorm2d(4), 5 + torch.rand(64, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        usual = norm(images.bfloat16())
        with reordered():
            other = norm(images.bfloat16())
    assert other.dtype == usual.dtype == torch.bfloat16
    assert float((usual - other).detach().abs().max()) < 0.02


def test_the_setting_computes_by_them_and_not_with_compile() -> None:
    model = ModelSpec(network=NETWORK)
    images = torch.rand(4, 3, 32, 32)
    classifiers = []
    for other in (False, False, True):
        torch.manual_seed(0)
        spec = ExperimentSpec(model=replace(model, other_kernels=other))
        classifiers.append(VGGClassifier(spec, num_classes=3)(images))
    usual, again, other_logits = classifiers
    assert torch.equal(usual, again) and not torch.equal(usual, other_logits)
    torch.testing.assert_close(usual.detach(), other_logits.detach(), rtol=1e-3, atol=1e-5)
    with pytest.raises(ExperimentError, match=r"model.other_kernels and model.compile exclude each other"):
        VGGClassifier(ExperimentSpec(model=replace(model, other_kernels=True, compile=True)), num_classes=3)
