"""Proof that a ported experiment is the Keras model that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from keras_reference.optim import build_optimizer
from keras_reference.porting import PortedModel
from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.experiment.specs import ModelSpec, OptimizerSpec
from lightning_vgg.images.decode import Sizing, image_files, open_image
from lightning_vgg.images.stored import brightness
from lightning_vgg.training import penalty
from lightning_vgg.training.weights import load_tensors
from parity_tests.any_pair import PairReport, compare_matched
from parity_tests.distance import distance
from parity_tests.frameworks import keras
from parity_tests.keras_copy import KerasCopy
from parity_tests.ladder import GATES, Gate, Rung, verdict
from parity_tests.matched_pair import MatchedPair
from parity_tests.pair import TorchSide, keras_precision, parameters
from parity_tests.torch_copy import TorchCopy

IMAGES = 16
"""Random images that both models are compared on, where none are named."""
_OWN_OUTPUT = Gate(1e-4, 1e-4)
"""Of a model in its own precision."""


class _Scaled(nn.Module):
    """A network that takes pixels 0..255, as the experiment's data module scales them."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network((pixels - self.mean) / self.std)


def pixels_of(plan: NetworkPlan, paths: Sequence[Path] | None) -> np.ndarray:
    """Pixels 0..255 in float64, (B, H, W, C), of image files, or random."""
    if paths is None:
        return np.random.default_rng(0).integers(0, 256, (IMAGES, *plan.input_shape)).astype(np.float64)
    files = [file for path in paths for file in image_files(path)]
    images = np.stack([open_image(file, Sizing(plan.input_shape[0])) for file in files])
    return (brightness(images) if plan.input_shape[-1] == 1 else images).astype(np.float64)


def prove(model: keras.Model, ported: PortedModel, pixels: np.ndarray) -> PairReport:
    """Both on the same images: the model's output as it is; in float64 and without dropout logits, loss, statistics of
    batch norm, gradients and steps; and one step of the model's own optimizer by the same gradients.

    Args:
        model: the Keras model itself, of which a copy in float64 is measured.
        ported: what was made of it, and is built in PyTorch.
        pixels: 0..255 (B, H, W, C); where the model does not scale them itself, both get pixels 0..1.
    """
    side = TorchSide(ModelSpec(network=ported.network), ported.plan, "float64", seed=0)
    load_tensors("the model", side.network, ported.weights())
    network: nn.Module = side.network
    images = pixels / 255
    if ported.mean is not None and ported.std is not None:
        network, images = _Scaled(network, ported.mean, ported.std), pixels
    ours = TorchCopy(network, lambda module: penalty.l2_penalty(penalty.penalized_layers(module)))
    labels = np.random.default_rng(0).integers(0, ported.plan.num_classes, len(images))
    pair = MatchedPair(ours, KerasCopy(model, penalized=True), images, labels, {}, ported.label_smoothing)
    return compare_matched(pair, [_own_output(model, ported, pair)], [_one_step(model, ported, pair, side)])


def _own_output(model: keras.Model, ported: PortedModel, pair: MatchedPair) -> Rung:
    """The copy has lost a softmax; here the model itself speaks, in its own precision."""
    output = torch.from_numpy(pair.ours.twin().trace(pair.images, training=False).result)
    output = torch.softmax(output, 1) if ported.softmax else output
    own = {"output": np.asarray(model(pair.images, training=False), np.float64)}
    return verdict("the model's own output", "float32", _OWN_OUTPUT, distance(own, {"output": output.numpy()}), None)


def _one_step(model: keras.Model, ported: PortedModel, pair: MatchedPair, side: TorchSide) -> Rung:
    """By the model's own optimizer, where it is known."""
    optimizer = ported.optimizer or OptimizerSpec()
    _, gradients = pair.ours.twin().loss_and_gradients(pair.images, pair.labels, pair.smoothing)
    list(
        side.steps_by(
            [{name.removeprefix("network."): value for name, value in gradients.items()}],
            optimizer,
            [optimizer.learning_rate],
            ported.clip,
        )
    )
    holder = KerasCopy(model)  # turns gradients into Keras's layouts
    holder.rename(pair.names)
    holder.pixels = pair.theirs.pixels
    for name, tensor in holder.tensors().items():
        if name in gradients:
            tensor.assign(gradients[name])
    variables = pair.theirs.model.trainable_variables
    with keras_precision("float64"):
        stepper = _optimizer(model, ported, optimizer, variables)
        stepper.apply([variable.value for variable in holder.model.trainable_variables], variables)
    theirs = parameters(pair.keras_tensors())
    pair.start()
    ours = parameters(side.tensors())
    theirs = {name.removeprefix("network."): value for name, value in theirs.items()}
    name = f"one step of {optimizer.name}, by the same gradients"
    return verdict(name, "float64", GATES["sgd"], distance(theirs, ours), None)


def _optimizer(
    model: keras.Model, ported: PortedModel, known: OptimizerSpec, variables: list[keras.Variable]
) -> keras.optimizers.Optimizer:
    if ported.optimizer is None:
        return build_optimizer(known, np.array([known.learning_rate]), None, variables)
    own = model.optimizer
    # With all digits: bare numbers TensorFlow rounds to float32, and so does the rate's variable.
    numbers = {name: np.float64(value) for name, value in own.get_config().items() if type(value) is float}
    return type(own).from_config(own.get_config() | numbers | {"learning_rate": np.float64(known.learning_rate)})
