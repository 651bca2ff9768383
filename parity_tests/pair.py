"""One network in both frameworks, with the same weights, and what can be computed with it on either side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from keras_reference import blocks as keras_blocks
from keras_reference import optim as keras_optim
from keras_reference.averaging import averaged
from keras_reference.blocks import layer_name
from keras_reference.dropout import Classifier, drop_by
from keras_reference.splitmix64 import as_words
from keras_reference.weights import load_tensors, model_tensors
from keras_reference.weights import network_tensors as keras_tensors
from lightning_vgg.experiment.network_plan import NetworkPlan, PlannedLayer, Shape, plan_network, same_padding
from lightning_vgg.experiment.recipe import BatchNorm, Dense, Dropout, MaxPool, SpatialDropout
from lightning_vgg.experiment.specs import ModelSpec, OptimizerSpec
from lightning_vgg.training import penalty
from lightning_vgg.training.averaging import Average
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.dropout import set_mask_keys
from lightning_vgg.training.kernels import OTHER_KERNELS
from lightning_vgg.training.loss import TrainingLoss
from lightning_vgg.training.optim import build_optimizer, clip_gradients
from lightning_vgg.training.weights import network_tensors
from parity_tests.frameworks import as_array, gradients_of, keras

Precision = Literal["float64", "float32", "bfloat16"]
"""bfloat16: activations alone; weights are float32."""
Tensors = dict[str, np.ndarray]

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Batch:
    """Normalized images (B, S, S, C), channels last, labels int64 (B,), and the keys of dropout masks, int64 (B,).

    The labels of mixed images are shares (B, classes).
    """

    images: np.ndarray
    labels: np.ndarray
    mask_keys: np.ndarray

    @property
    def for_keras(self) -> tuple[np.ndarray, np.ndarray]:
        """What a training model in Keras takes."""
        return self.images, as_words(self.mask_keys)


class TorchSide:
    """The network as the Lightning side builds it, on torch's ``device``; what goes in and comes out is on the host.

    All tensors, batch-norm statistics included, start from random values, so that none is trivially 0 or 1.
    """

    def __init__(
        self,
        spec: ModelSpec,
        plan: NetworkPlan,
        precision: Precision,
        seed: int,
        class_weights: np.ndarray | None = None,
        device: str = "cpu",
    ) -> None:
        self.plan, self.label_smoothing, self.device = plan, spec.label_smoothing, device
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        self.loss_function = TrainingLoss(spec.resolved_semantics, spec.label_smoothing, weights).to(device)
        self.semantics = spec.resolved_semantics
        self.frozen_block: str | None = None
        self.average: Average | None = None
        torch.manual_seed(seed)
        self.network: nn.Module = build_network(plan, self.semantics)
        self.network.to(device, getattr(torch, weights_dtype(precision)))
        randomize(self.network, seed + 1)

    def twin(self) -> TorchSide:
        """A copy."""
        twin = copy(self)
        twin.network = deepcopy(self.network)
        return twin

    def tensors(self) -> Tensors:
        """Parameters and batch-norm statistics, copied, in torch's names and layouts."""
        return network_tensors(self.network)

    def freeze(self, block: str) -> None:
        """Neither weights nor statistics of the block move any more."""
        self.frozen_block = block
        self.network.get_submodule(block).requires_grad_(False)

    def logits(self, batch: Batch) -> np.ndarray:
        """(B, classes), in evaluation mode."""
        self.network.eval()
        with torch.no_grad():
            logits = self.network(self._there(_nchw(batch.images)))
        return (logits.float() if logits.dtype == torch.bfloat16 else logits).cpu().numpy()

    def loss(self, batch: Batch) -> np.ndarray:
        """The training loss, in training mode."""
        return self._loss(batch).detach().cpu().numpy()

    def losses(self, batch: Batch) -> np.ndarray:
        """The cross-entropy of each image (B,), in training mode."""
        labels = self._there(batch.labels)
        return (
            F.cross_entropy(
                self._training_logits(batch), labels, label_smoothing=self.label_smoothing, reduction="none"
            )
            .detach()
            .cpu()
            .numpy()
        )

    def loss_of(self, logits: np.ndarray, batch: Batch) -> np.ndarray:
        """The training loss of given logits (B, classes)."""
        return self.loss_function(self._there(logits), self._there(batch.labels)).cpu().numpy()

    def gradients(self, batch: Batch) -> Tensors:
        """Of the training loss, in torch's names and layouts."""
        self.network.zero_grad()
        self._loss(batch).backward()
        return {
            name: parameter.grad.cpu().numpy().copy()
            for name, parameter in self.network.named_parameters()
            if parameter.grad is not None
        }

    def activations(self, batch: Batch) -> Tensors:
        """What `gradient_paths` looks at, in training mode; the statistics stay."""
        twin = self.twin()
        return torch_activations(twin.network, self.plan, self.plan.layers, lambda: twin.loss(batch))

    def kept_units(self, batch: Batch) -> Tensors:
        """What each dropout layer makes of ones, channels last."""
        set_mask_keys(self.network, self._there(batch.mask_keys))
        kept = {}
        for planned in _dropped(self.plan):
            ones = self._there(np.moveaxis(_ones(batch, planned), -1, 1))
            units = self.network.get_submodule(planned.name).train()(ones).cpu().numpy()
            kept[planned.name] = _as_keras_has_it(planned, self.plan, units)
        return kept

    def steps(
        self,
        batches: Sequence[Batch],
        optimizer: OptimizerSpec,
        rates: Sequence[float],
        clip: float | None = None,
        accumulated: int = 1,
    ) -> Iterator[None]:
        """Train step after step, at a learning rate each; yields after each step.

        Args:
            batches: of all steps.
            optimizer: by which.
            rates: of each step.
            clip: largest norm of all gradients together; None for any.
            accumulated: batches of a step; the last one may have fewer.
        """

        def backward(step: Sequence[Batch]) -> None:
            for batch in step:
                (self._loss(batch) / accumulated).backward()

        firsts = range(0, len(batches), accumulated)
        steps = [lambda first=first: backward(batches[first : first + accumulated]) for first in firsts]
        return self.updates(steps, optimizer, rates, clip)

    def steps_by(
        self, gradients: Sequence[Tensors], optimizer: OptimizerSpec, rates: Sequence[float], clip: float | None = None
    ) -> Iterator[None]:
        """The same by given gradients, in torch's names and layouts."""

        def give(gradients: Tensors) -> None:
            for name, parameter in self.network.named_parameters():
                parameter.grad = self._there(gradients[name].copy())

        return self.updates([lambda each=each: give(each) for each in gradients], optimizer, rates, clip)

    def updates(
        self,
        backwards: Sequence[Callable[[], None]],
        optimizer: OptimizerSpec,
        rates: Sequence[float],
        clip: float | None,
    ) -> Iterator[None]:
        """A step after each of ``backwards``, which leave gradients in the parameters."""
        stepper = build_optimizer(self.network, optimizer, self.semantics)
        self.average = None if optimizer.ema is None else Average(optimizer.ema)
        for backward, rate in zip(backwards, rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = rate
            stepper.zero_grad()
            backward()
            if clip is not None:
                clip_gradients(self.network.parameters(), clip, self.semantics.clip_epsilon)
            stepper.step()
            if self.average is not None:
                self.average.update([*self.network.parameters()])
            yield

    def averages(self) -> Tensors:
        """The parameters' moving averages after the steps of an optimizer that keeps them."""
        assert self.average is not None
        averages = zip(self.network.named_parameters(), self.average.tensors, strict=True)
        return {name: average.cpu().numpy().copy() for (name, _), average in averages}

    def _training_logits(self, batch: Batch) -> torch.Tensor:
        """With the graph."""
        self.network.train()
        set_mask_keys(self.network, self._there(batch.mask_keys))
        if self.frozen_block is not None:
            self.network.get_submodule(self.frozen_block).eval()
        return self.network(self._there(_nchw(batch.images)))

    def _loss(self, batch: Batch) -> torch.Tensor:
        """With the graph."""
        loss = self.loss_function(self._training_logits(batch), self._there(batch.labels))
        return loss + penalty.l2_penalty(penalty.penalized_layers(self.network))

    def _there(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)


class KerasSide:
    """The network as the Keras reference builds it, from given weights; its methods are those of :class:`TorchSide`."""

    def __init__(
        self,
        spec: ModelSpec,
        plan: NetworkPlan,
        precision: Precision,
        tensors: Tensors,
        class_weights: np.ndarray | None = None,
    ) -> None:
        self.plan, self.precision, self.class_weights = plan, precision, class_weights
        with keras_precision(precision):
            self.loss_function = keras_optim.training_loss(spec.label_smoothing, plan.num_classes)
            self.mixed_loss = keras_optim.training_loss(spec.label_smoothing, plan.num_classes, mixed=True)
            self.model = keras_blocks.build_network(plan)
            load_tensors("torch's network", model_tensors(self.model, plan), tensors)

    def tensors(self) -> Tensors:
        return keras_tensors(model_tensors(self.model, self.plan))

    def freeze(self, block: str) -> None:
        for layer in self.model.layers:
            if layer.name.startswith(f"{block}_"):
                layer.trainable = False
                if isinstance(layer, keras.layers.Dropout):
                    layer.rate = 0  # as the reference leaves it out among frozen layers

    def logits(self, batch: Batch) -> np.ndarray:
        return as_array(self.model(batch.images, training=False))

    def loss(self, batch: Batch) -> np.ndarray:
        return as_array(self._loss(batch))

    def losses(self, batch: Batch) -> np.ndarray:
        with keras_precision(self.precision):
            return as_array(self.loss_function.call(batch.labels, self.model(batch.for_keras, training=True)))

    def _loss(self, batch: Batch) -> Any:
        """Cross-entropy and L2, as ``train_on_batch`` adds them up."""
        with keras_precision(self.precision):
            return sum(self.model.losses, self.weighted_loss(batch.labels, self.model(batch.for_keras, training=True)))

    def weighted_loss(self, labels: np.ndarray, logits: Any) -> Any:
        """As ``train_on_batch`` weighs it."""
        weights = None if self.class_weights is None else self.class_weights[labels]
        return self.loss_function(labels, logits, sample_weight=weights)

    def loss_of(self, logits: Any, batch: Batch) -> np.ndarray:
        loss = self.mixed_loss if batch.labels.ndim == 2 else self.weighted_loss
        with keras_precision(self.precision):
            return as_array(loss(batch.labels, logits))

    def gradients(self, batch: Batch) -> Tensors:
        """Put into a second model, and read back like weights."""
        with keras_precision(self.precision):
            holder = keras_blocks.build_network(self.plan)
        gradients = gradients_of(lambda: self._loss(batch), self.model.trainable_variables)
        for variable, gradient in zip(holder.trainable_variables, gradients, strict=True):
            variable.assign(gradient)
        return parameters(keras_tensors(model_tensors(holder, self.plan)))

    def activations(self, batch: Batch) -> Tensors:
        before = self.tensors()
        outputs = self._probe(batch.for_keras, training=True)
        load_tensors("itself", model_tensors(self.model, self.plan), before)
        return {name: as_array(output) for name, output in outputs.items()}

    @cached_property
    def _probe(self) -> keras.Model:
        layers = {planned: self.model.get_layer(layer_name(planned)) for planned in forks(self.plan.layers)}
        outputs = {
            planned.name: layer.input if isinstance(planned.layer, MaxPool) else layer.output
            for planned, layer in layers.items()
        }
        return Classifier(self.model.input, outputs)

    def kept_units(self, batch: Batch) -> Tensors:
        kept = {}
        for planned in _dropped(self.plan):
            layer = self.model.get_layer(layer_name(planned))
            with drop_by(keras.ops.convert_to_tensor(as_words(batch.mask_keys))):
                kept[planned.name] = as_array(layer(_ones(batch, planned), training=True))
        return kept

    def steps(
        self,
        batches: Sequence[Batch],
        optimizer: OptimizerSpec,
        rates: Sequence[float],
        clip: float | None = None,
        accumulated: int = 1,
    ) -> Iterator[None]:
        """By Keras's own ``train_on_batch``."""
        with keras_precision(self.precision):
            stepper = keras_optim.build_optimizer(
                optimizer, np.asarray(rates), clip, self.model.trainable_variables, batches=accumulated
            )
            # Tracing a graph takes longer than a single step.
            self.model.compile(stepper, self.loss_function, jit_compile=False, run_eagerly=len(batches) == 1)
            weights = None if self.class_weights is None else dict(enumerate(self.class_weights))
            for number, batch in enumerate(batches, start=1):
                self.model.train_on_batch(batch.for_keras, batch.labels, class_weight=weights)
                if number == len(batches):
                    keras_optim.take_last_step(self.model, -number % accumulated)
                if number % accumulated == 0 or number == len(batches):
                    yield

    def averages(self) -> Tensors:
        with averaged(self.model.optimizer):
            return parameters(self.tensors())

    def steps_by(
        self, gradients: Sequence[Tensors], optimizer: OptimizerSpec, rates: Sequence[float], clip: float | None = None
    ) -> Iterator[None]:
        variables = self.model.trainable_variables
        with keras_precision(self.precision):
            stepper = keras_optim.build_optimizer(optimizer, np.asarray(rates), clip, variables)
            holder = keras_blocks.build_network(self.plan)
            for each in gradients:
                load_tensors("gradients", model_tensors(holder, self.plan), each | statistics(self.tensors()))
                stepper.apply([variable.value for variable in holder.trainable_variables], variables)
                yield


Side = TorchSide | KerasSide


class Pair:
    """The network of ``spec`` in torch and in Keras with the same weights."""

    def __init__(
        self,
        spec: ModelSpec,
        image_size: int,
        num_classes: int,
        precision: Precision,
        seed: int,
        channels: int = 3,
        class_weights: np.ndarray | None = None,
        device: str = "cpu",
    ) -> None:
        self.spec = spec
        self.plan = plan_network(self.spec.network, image_size, num_classes, channels)
        self.torch = TorchSide(self.spec, self.plan, precision, seed, class_weights, device)
        self.keras = KerasSide(self.spec, self.plan, precision, self.torch.tensors(), class_weights)

    @cached_property
    def damped(self) -> set[str]:
        """Layers that a batch norm follows, near or far."""
        layers = [planned.name for planned in self.plan.layers]
        return layers_before_norms(
            layers, {each.name for each in self.plan.layers if isinstance(each.layer, BatchNorm)}
        )

    def flips(self, batch: Batch) -> tuple[int, int]:
        """How many gradients take another path in Keras than in torch; and in torch by other kernels."""
        return count_flips(self.plan.layers, self.torch.activations, self.keras.activations, batch, batch)


def count_flips(
    layers: Sequence[PlannedLayer],
    ours: Callable[[Batch], Tensors],
    theirs: Callable[[Batch], Tensors],
    batch: Batch,
    their_batch: Batch,
) -> tuple[int, int]:
    """Between the activations in torch and in Keras; and between torch's and those by other kernels."""
    if not forks(layers):
        return 0, 0
    reference = gradient_paths(layers, ours(batch))
    others = [gradient_paths(layers, theirs(their_batch))]
    for kernels in OTHER_KERNELS:
        with kernels():
            others.append(gradient_paths(layers, ours(batch)))
    counts = [sum(int((path != other[name]).sum()) for name, path in reference.items()) for other in others]
    return counts[0], max(counts[1:])


def torch_activations(
    network: nn.Module, plan: NetworkPlan, layers: Iterable[PlannedLayer], run: Callable[[], object]
) -> Tensors:
    """What `gradient_paths` looks at while ``network`` runs, channels last."""
    found: Tensors = {}

    def note(planned: PlannedLayer, value: torch.Tensor) -> None:
        found[planned.name] = _as_keras_has_it(planned, plan, value.detach().cpu().numpy())

    hooks = [
        network.get_submodule(planned.name).register_forward_hook(
            lambda module, inputs, output, planned=planned: note(
                planned, inputs[0] if isinstance(planned.layer, MaxPool) else output
            )
        )
        for planned in forks(layers)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return found


def _as_keras_has_it(planned: PlannedLayer, plan: NetworkPlan, values: np.ndarray) -> np.ndarray:
    """A layer's output, (B, C, H, W) -> (B, H, W, C); flattened pixels in that order, too."""
    flattened = plan.flattened_layers()
    if planned.name not in flattened or isinstance(planned.layer, Dense):
        return np.moveaxis(values, 1, -1)
    return flatten_as_keras(values, flattened[planned.name])


def flatten_as_keras(values: np.ndarray, pixels: Shape) -> np.ndarray:
    """Pixels (H, W, C) that torch has flattened as (C, H, W): (B, features) in Keras's order."""
    height, width, channels = pixels
    return values.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(values.shape)


def gradient_paths(layers: Iterable[PlannedLayer], activations: Tensors) -> Tensors:
    """What rounding can turn round: the signs of what ReLUs put out, and which pixel of a window a max pool takes."""
    return {
        planned.name: _largest(activations[planned.name], planned.layer)
        if isinstance(planned.layer, MaxPool)
        else np.sign(activations[planned.name])
        for planned in forks(layers)
    }


def _largest(images: np.ndarray, pool: MaxPool) -> np.ndarray:
    """The place of the largest pixel in every window of images (B, H, W, C); of equal ones the first."""
    step = pool.stride or pool.size
    if pool.padding == "same":
        around = same_padding(images.shape[1], pool.size, step)
        images = np.pad(images, ((0, 0), around, around, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(images, (pool.size, pool.size), (1, 2))
    windows = windows[:, ::step, ::step]
    return windows.reshape(*windows.shape[:4], -1).argmax(-1)


def forks(layers: Iterable[PlannedLayer]) -> list[PlannedLayer]:
    """The layers whose gradient depends on a comparison."""
    kinked = ("relu", "leaky relu")
    return [
        planned
        for planned in layers
        if isinstance(planned.layer, MaxPool)
        or getattr(planned.layer, "activation", getattr(planned.layer, "name", "")) in kinked
    ]


def _dropped(plan: NetworkPlan) -> list[PlannedLayer]:
    return [layer for layer in plan.layers if isinstance(layer.layer, Dropout | SpatialDropout) and layer.layer.rate]


def _ones(batch: Batch, planned: PlannedLayer) -> np.ndarray:
    return np.ones((len(batch.labels), *planned.input_shape), batch.images.dtype)


def initial_tensors(spec: ModelSpec, plan: NetworkPlan, seed: int) -> tuple[Tensors, Tensors]:
    """Freshly initialized, by torch and by Keras, each from its own random generator."""
    torch.manual_seed(seed)
    ours = network_tensors(build_network(plan, spec.resolved_semantics))
    keras.utils.set_random_seed(seed)
    return ours, keras_tensors(model_tensors(keras_blocks.build_network(plan), plan))


def statistics(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name.endswith(_STATISTICS)}


def parameters(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if not name.endswith(_STATISTICS)}


def without_idle_biases(tensors: Tensors, plan: NetworkPlan) -> Tensors:
    """Leave out biases that a batch norm cancels: their true gradient is 0, and Adam amplifies its noise."""
    idle = plan.idle_biases()
    return {name: value for name, value in tensors.items() if name not in idle}


def layers_before_norms(layers: Sequence[str], norms: Collection[str]) -> set[str]:
    """Those of ``layers``, in their order, that come before the last of ``norms``."""
    return set(layers[: max((number for number, name in enumerate(layers) if name in norms), default=0)])


def damped_scales(gradients: Tensors, damped: Collection[str]) -> dict[str, float]:
    """What the gradients of vectors in ``damped`` layers are measured against: the network's largest gradient.

    A batch norm cancels a constant that is added before it, entirely, or in part if an activation is between them. The
    gradient of such a vector is a sum whose terms cancel, so its own size says nothing about its rounding error.
    """
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    return {name: largest for name, value in gradients.items() if value.ndim == 1 and name.rpartition(".")[0] in damped}


def randomize(network: nn.Module, seed: int) -> None:
    """Random biases, batch-norm weights and statistics; kernels stay as initialized."""
    generator = torch.Generator().manual_seed(seed)
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
    keras.config.set_floatx(weights_dtype(precision))
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else precision)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(before)


def weights_dtype(precision: Precision) -> Literal["float64", "float32"]:
    return "float64" if precision == "float64" else "float32"


def _nchw(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -1, 1)
