"""One network in both frameworks, with the same weights, and what can be computed with it on either side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from keras_reference import blocks as keras_blocks
from keras_reference import optim as keras_optim
from keras_reference.weights import load_tensors, model_tensors
from keras_reference.weights import network_tensors as keras_tensors
from lightning_vgg.experiment.network_plan import NetworkPlan, PlannedLayer, plan_network
from lightning_vgg.experiment.recipe import AveragePool, BatchNorm, Conv, Dense, Dropout, GlobalAveragePool, MaxPool
from lightning_vgg.experiment.semantics import resolve_semantics
from lightning_vgg.experiment.specs import ModelSpec, OptimizerSpec
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.optim import build_optimizer, clip_gradients
from lightning_vgg.training.weights import network_tensors
from parity_tests.frameworks import keras

Precision = Literal["float64", "float32"]
Tensors = dict[str, np.ndarray]

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Batch:
    """Normalized images (B, S, S, C), channels last, and labels int64 (B,)."""

    images: np.ndarray
    labels: np.ndarray


class Pair:
    """The network of ``spec`` in torch and in Keras, dropout off unless masks are given.

    All tensors, batch-norm statistics included, start from random values, so that none is trivially 0 or 1.
    """

    def __init__(
        self,
        spec: ModelSpec,
        image_size: int,
        num_classes: int,
        precision: Precision,
        dropout: bool = False,
        channels: int = 3,
    ) -> None:
        if not dropout:
            spec = without_dropout(spec)
        self.spec = spec
        self.frozen_block: str | None = None
        self.precision = precision
        self.plan = plan_network(spec.network, image_size, num_classes, channels)
        self.semantics = resolve_semantics(spec.semantics, spec.semantics_except)
        torch.manual_seed(0)
        self.torch_network: nn.Module = build_network(self.plan, self.semantics).to(getattr(torch, precision))
        randomize(self.torch_network)
        with keras_precision(precision):
            self.keras_model = keras_blocks.build_network(self.plan)
            load_tensors("torch's network", model_tensors(self.keras_model, self.plan), self.torch_tensors())

    def torch_twin(self, nudge: int | None = None) -> Pair:
        """A pair whose torch network is a copy; ``nudge`` seeds a step of one ulp up or down for every weight."""
        twin = copy(self)
        twin.torch_network = deepcopy(self.torch_network)
        if nudge is not None:
            nudge_parameters(twin.torch_network, nudge)
        return twin

    def freeze(self, block: str) -> None:
        """Neither weights nor statistics of the block move any more, in both frameworks."""
        self.frozen_block = block
        self.torch_network.get_submodule(block).requires_grad_(False)
        for layer in self.keras_model.layers:
            if layer.name.startswith(f"{block}_"):
                layer.trainable = False

    # Weights and statistics

    def torch_tensors(self) -> Tensors:
        return network_tensors(self.torch_network)

    def keras_tensors(self) -> Tensors:
        return keras_tensors(model_tensors(self.keras_model, self.plan))

    # One batch

    def torch_logits(self, batch: Batch, training: bool = False) -> np.ndarray:
        self.torch_network.train(training)
        with torch.no_grad():
            return self.torch_network(_nchw(batch.images)).numpy()

    def keras_logits(self, batch: Batch) -> np.ndarray:
        return np.asarray(self.keras_model(batch.images, training=False))

    def torch_loss(self, batch: Batch) -> torch.Tensor:
        """Training loss, with the graph."""
        self.torch_network.train()
        if self.frozen_block is not None:
            self.torch_network.get_submodule(self.frozen_block).eval()
        logits = self.torch_network(_nchw(batch.images))
        return F.cross_entropy(logits, torch.from_numpy(batch.labels), label_smoothing=self.spec.label_smoothing)

    def keras_loss(self, batch: Batch) -> np.ndarray:
        return self.keras_loss_of(self.keras_model(batch.images, training=True), batch)

    def torch_loss_of(self, logits: np.ndarray, batch: Batch) -> np.ndarray:
        labels = torch.from_numpy(batch.labels)
        return F.cross_entropy(torch.from_numpy(logits), labels, label_smoothing=self.spec.label_smoothing).numpy()

    def keras_loss_of(self, logits: Any, batch: Batch) -> np.ndarray:
        with keras_precision(self.precision):
            loss = keras_optim.training_loss(self.spec.label_smoothing, self.plan.num_classes)
            return np.asarray(loss(batch.labels, logits))

    def torch_gradients(self, batch: Batch) -> Tensors:
        self.torch_network.zero_grad()
        self.torch_loss(batch).backward()
        return {
            name: parameter.grad.numpy().copy()
            for name, parameter in self.torch_network.named_parameters()
            if parameter.grad is not None
        }

    def keras_gradients(self, batch: Batch) -> Tensors:
        """In torch's names and layouts: the gradients are put into a second model, and read back like weights."""
        import tensorflow as tf

        with keras_precision(self.precision):
            loss = keras_optim.training_loss(self.spec.label_smoothing, self.plan.num_classes)
            holder = keras_blocks.build_network(self.plan)
        with tf.GradientTape() as tape:
            value = loss(batch.labels, self.keras_model(batch.images, training=True))
        gradients = tape.gradient(value, [variable.value for variable in self.keras_model.trainable_variables])
        for variable, gradient in zip(holder.trainable_variables, gradients, strict=True):
            variable.assign(gradient)
        tensors = keras_tensors(model_tensors(holder, self.plan))
        return {name: value for name, value in tensors.items() if not name.endswith(_STATISTICS)}

    def flipped_kinks(self, batch: Batch) -> int:
        """Activations of convolutions and dense layers that are 0 in one framework and not in the other."""
        names = [layer.name for layer in self.plan.layers if isinstance(layer.layer, Conv | Dense)]
        outputs: dict[str, np.ndarray] = {}
        twin = self.torch_twin()
        for name in names:
            twin.torch_network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: outputs.update({name: output.detach().numpy()})
            )
        twin.torch_loss(batch)
        layers = [self.keras_model.get_layer(name.replace(".", "_")).output for name in names]
        probe = keras.Model(self.keras_model.inputs, layers)
        before = self.keras_tensors()  # a pass in training mode moves the statistics
        theirs = probe(batch.images, training=True)
        load_tensors("itself", model_tensors(self.keras_model, self.plan), before)
        flipped = 0
        for name, other in zip(names, theirs if isinstance(theirs, list) else [theirs], strict=True):
            ours = np.moveaxis(outputs[name], 1, -1)
            flipped += int(((ours == 0) != (np.asarray(other) == 0)).sum())
        return flipped

    # Many batches

    def torch_steps(
        self, batches: Sequence[Batch], optimizer: OptimizerSpec, rates: Sequence[float], clip: float | None = None
    ) -> Iterator[None]:
        """Train batch after batch; yields after each step."""
        stepper = build_optimizer(self.torch_network, optimizer, self.semantics)
        for batch, rate in zip(batches, rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = rate
            stepper.zero_grad()
            self.torch_loss(batch).backward()
            if clip is not None:
                clip_gradients(self.torch_network.parameters(), clip, self.semantics.clip_epsilon)
            stepper.step()
            yield

    def keras_steps(
        self, batches: Sequence[Batch], optimizer: OptimizerSpec, rates: Sequence[float], clip: float | None = None
    ) -> Iterator[None]:
        """The same by Keras's own ``train_on_batch``."""
        with keras_precision(self.precision):
            self.keras_model.compile(
                optimizer=keras_optim.build_optimizer(
                    optimizer, np.asarray(rates), clip, self.keras_model.trainable_variables
                ),
                loss=keras_optim.training_loss(self.spec.label_smoothing, self.plan.num_classes),
                jit_compile=False,
            )
            for batch in batches:
                self.keras_model.train_on_batch(batch.images, batch.labels)
                yield


def nudge_parameters(network: nn.Module, seed: int) -> None:
    """Move every weight one ulp up or down."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        up = torch.rand(parameter.shape, generator=generator) < 0.5
        parameter.data = torch.nextafter(parameter.data, torch.where(up, torch.inf, -torch.inf).to(parameter))


def initial_tensors(spec: ModelSpec, image_size: int, num_classes: int) -> tuple[Tensors, Tensors]:
    """Freshly initialized, by torch and by Keras, each with its own chance."""
    plan = plan_network(spec.network, image_size, num_classes)
    torch.manual_seed(0)
    ours = network_tensors(build_network(plan, resolve_semantics(spec.semantics, spec.semantics_except)))
    keras.utils.set_random_seed(0)
    return ours, keras_tensors(model_tensors(keras_blocks.build_network(plan), plan))


def statistics(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name.endswith(_STATISTICS)}


def parameters(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if not name.endswith(_STATISTICS)}


def without_idle_biases(tensors: Tensors, plan: NetworkPlan) -> Tensors:
    """Leave out biases that a batch norm takes away wholly: their gradient is truly 0, and Adam blows up its noise."""
    idle = set()
    for layer, following in zip(plan.layers, plan.layers[1:], strict=False):
        linear = isinstance(layer.layer, BatchNorm) or getattr(layer.layer, "activation", "") == "linear"
        if linear and _meets_norm(plan, following):
            idle.add(f"{layer.name}.bias")
    return {name: value for name, value in tensors.items() if name not in idle}


def _meets_norm(plan: NetworkPlan, layer: PlannedLayer) -> bool:
    """Whether a batch norm comes next, or after nothing but layers through which a constant passes unchanged."""
    for following in plan.layers[plan.layers.index(layer) :]:
        if isinstance(following.layer, BatchNorm):
            return True
        if not isinstance(following.layer, Dropout | MaxPool | AveragePool | GlobalAveragePool):
            return False
    return False


def damped_scales(gradients: Tensors, plan: NetworkPlan) -> dict[str, float]:
    """What the gradients of vectors before a batch norm are measured against: the network's largest gradient.

    A batch norm takes away a constant that is added before it, wholly, or in part where an activation lies between. The
    gradient of such a vector is a sum whose terms cancel, so its own size says nothing of the rounding in it.
    """
    norms = [number for number, layer in enumerate(plan.layers) if isinstance(layer.layer, BatchNorm)]
    before = {layer.name for layer in plan.layers[: max(norms, default=0)]}
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    return {name: largest for name, value in gradients.items() if value.ndim == 1 and name.rpartition(".")[0] in before}


def without_dropout(spec: ModelSpec) -> ModelSpec:
    """The same layers, every dropout at rate 0."""

    def off(recipe: str) -> str:
        return re.sub(r"dropout\s*\([^)]*\)", "dropout", recipe, flags=re.IGNORECASE)

    def off_all(block: str | list[str]) -> str | list[str]:
        return off(block) if isinstance(block, str) else [off(recipe) for recipe in block]

    network = spec.network
    return replace(
        spec,
        network=replace(
            network, conv_block=off_all(network.conv_block), dense_block=off_all(network.dense_block), dropout=0.0
        ),
    )


def randomize(network: nn.Module) -> None:
    """Random biases, batch-norm weights and statistics; kernels stay as initialized."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.ndim != 1:
            continue
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        around_one = name.endswith("running_var") or (name.endswith("weight") and "norm" in name)
        tensor.copy_(0.5 + noise if around_one else 0.2 * noise - 0.1)


@contextmanager
def keras_precision(precision: Precision) -> Iterator[None]:
    """Keras's float type for the layers, optimizers and metrics made inside."""
    before = keras.config.floatx()
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(before)


def _nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
