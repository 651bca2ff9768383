"""Grad-CAM by Keras on TensorFlow, and by captum on torch, of the same weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from keras_reference.grad_cam import grad_cam as keras_grad_cam
from keras_reference.grad_cam import last_convolution
from keras_reference.transfer import Network
from keras_reference.weights import load_tensors
from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.specs import BackboneSpec, ModelSpec, NetworkSpec
from lightning_vgg.training.grad_cam import grad_cam as torch_grad_cam
from parity_tests.pair import Pair, Precision, keras_precision
from parity_tests.transfer_ladder import TransferPair

Both = tuple[nn.Module, Network]
LESSON = NetworkSpec("conv - batch norm - conv - maxpool - dropout", [6, 8], units=[10])
BARE = NetworkSpec("conv(linear) - batch norm - gelu - maxpool", [6, 8, 8], units=[])
HEAD = NetworkSpec("batch norm", [8], units=[])


def from_recipes(network: NetworkSpec, precision: Precision) -> Both:
    pair = Pair(ModelSpec(network=network), 16, 4, precision, seed=3)
    with keras_precision(precision):
        ours = Network(plan_network(network, 16, 4), None, 16)
        load_tensors("torch's network", ours.tensors(), pair.torch.tensors())
    return pair.torch.network, ours


def on_backbone(pooling: str, precision: Precision) -> Both:
    backbone = BackboneSpec(weights="none", layer="block2_pool", pooling=pooling, image_size=20)  # type: ignore[arg-type]
    head = NetworkSpec("batch norm", [128], units=[])
    pair = TransferPair(ModelSpec(network=head, backbone=backbone), 16, 4, precision, seed=3)
    pair.backbone.freeze(0)
    return pair.torch_network, pair.keras


NETWORKS: dict[str, Callable[[Precision], Both]] = {
    "the lesson's": lambda precision: from_recipes(LESSON, precision),
    "linear convolutions": lambda precision: from_recipes(BARE, precision),
    "a backbone, average": lambda precision: on_backbone("average", precision),
    "a backbone, flatten": lambda precision: on_backbone("flatten", precision),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_maps_agree(name: str, precision: Precision) -> None:
    """To within a thousand roundings of the largest value: sums over up to 1,152 products and 128 channels cancel."""
    share = 1000 * np.finfo(precision).epsneg
    network, ours = NETWORKS[name](precision)
    network.eval()
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    convolution, module = list(layers.items())[-1]
    assert last_convolution(ours) == convolution.removeprefix("backbone.")
    generator, found = np.random.default_rng(0), []
    for label in range(4):
        image = generator.normal(size=(1, 16, 16, 3)).astype(precision)
        theirs = torch_grad_cam(network, torch.from_numpy(image).permute(0, 3, 1, 2), label, module)
        with keras_precision(precision):
            heat = keras_grad_cam(ours, image, label, convolution.removeprefix("backbone."))
        assert heat.dtype == theirs.dtype == precision
        assert heat.shape == theirs.shape and (heat >= 0).all()
        np.testing.assert_allclose(heat, theirs, rtol=0, atol=share * theirs.max())
        found.append(heat)
    assert any((heat > 0).any() and (heat == 0).any() for heat in found)
