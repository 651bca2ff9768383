"""Known ways to get a port wrong, planted one at a time: each must be caught by the rung named beside it.

The list follows the differences between Keras and PyTorch; a mutant that no rung catches is a missing rung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.specs import BackboneSpec, ModelSpec, NetworkSpec, OptimizerSpec
from lightning_vgg.images.preprocessing import PREPROCESSING
from lightning_vgg.training import dropout
from lightning_vgg.training.data import EvalLoader
from lightning_vgg.training.module import Scores
from lightning_vgg.training.optim import ParameterGroup
from parity_tests.frameworks import keras
from parity_tests.ladder import Ladder, Rung
from parity_tests.pair import Batch, Pair
from parity_tests.transfer_ladder import TransferLadder

Climb = Callable[[Ladder], Iterator[Rung]]


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: what is wrong.
        climb: the rungs that must catch it (one is enough) and that pass without it.
        switches: semantics that the Lightning side gets wrong.
        plant: the fault as a patch.
        spec: how the experiment differs from the plain one, where the fault needs it.
    """

    name: str
    climb: Climb
    switches: tuple[str, ...] = ()
    plant: Callable[[], AbstractContextManager[Any]] = nullcontext
    spec: Callable[[ModelSpec], ModelSpec] = field(default=lambda spec: spec)


def _one(rung: Callable[[Ladder], Rung]) -> Climb:
    return lambda ladder: iter([rung(ladder)])


def _steps(name: str) -> Climb:
    return lambda ladder: ladder.steps(name, "float64")


def _on_backbone(climb: Callable[[TransferLadder], Iterator[Rung]]) -> Climb:
    def climb_it(ladder: Ladder) -> Iterator[Rung]:
        assert isinstance(ladder, TransferLadder)
        return climb(ladder)

    return climb_it


_FORWARD = _one(lambda ladder: ladder.forward("float64"))
_LOSS = _one(lambda ladder: ladder.loss("float64"))
_DROPOUT = _one(lambda ladder: ladder.dropout("float64"))
_FROZEN = _one(lambda ladder: ladder.frozen("float64"))
_CLIPPING = _one(lambda ladder: ladder.clipping("float64"))
_EVALUATION = _one(lambda ladder: ladder.evaluation())
_PREPROCESSING = _one(lambda ladder: ladder.preprocessing())
_AUGMENTATION = _one(lambda ladder: ladder.augmentation())
_RESIZE = _on_backbone(lambda ladder: iter([ladder.resize("float64")]))
_EMBEDDINGS = _on_backbone(lambda ladder: ladder.embeddings("float64"))
_FINE_TUNING = _on_backbone(lambda ladder: ladder.fine_tuning("float64"))


def _recipe(conv_block: str) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, network=replace(spec.network, conv_block=conv_block))


def _optimizer(**values: Any) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, optimizer=OptimizerSpec(**values))


@contextmanager
def _torch_steps_with(change: Callable[[OptimizerSpec, Any], tuple[OptimizerSpec, Any]]) -> Iterator[None]:
    """The Lightning side alone trains with another optimizer or other rates."""
    right = Pair.torch_steps

    def wrong(
        self: Pair, batches: Any, optimizer: OptimizerSpec, rates: Any, clip: float | None = None
    ) -> Iterator[None]:
        return right(self, batches, *change(optimizer, rates), clip)

    with mock.patch.object(Pair, "torch_steps", wrong):
        yield


@contextmanager
def _probabilities_clipped() -> Iterator[None]:
    """Keras's loss on probabilities, which it clips to [1e-7, 1 - 1e-7]."""

    def wrong(self: Pair, logits: Any, batch: Any) -> np.ndarray:
        # By way of numpy: where Keras still sees the softmax it goes back to the logits.
        probabilities = keras.ops.convert_to_tensor(np.asarray(keras.ops.softmax(logits)))
        return np.asarray(keras.ops.mean(keras.ops.sparse_categorical_crossentropy(batch.labels, probabilities)))

    with mock.patch.object(Pair, "keras_loss_of", wrong):
        yield


@contextmanager
def _scores_weigh_batches_alike() -> Iterator[None]:
    def wrong(self: Scores, logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        self.loss.update(loss, 50)  # four batches of 200 images in all
        self.counts.update(logits, labels)

    with mock.patch.object(Scores, "update", wrong):
        yield


def _without_last_batch() -> AbstractContextManager[Any]:
    return mock.patch.object(EvalLoader, "__len__", lambda self: self.count // self.batch_size)


def _statistics_move_while_frozen() -> AbstractContextManager[Any]:
    def wrong(self: Pair, block: str) -> None:
        self.torch_network.get_submodule(block).requires_grad_(False)
        for layer in self.keras_model.layers:
            if layer.name.startswith(f"{block}_"):
                layer.trainable = False

    return mock.patch.object(Pair, "freeze", wrong)


def _dropout_not_inverted() -> AbstractContextManager[Any]:
    def wrong(self: dropout.Dropout, inputs: torch.Tensor) -> torch.Tensor:
        return dropout.drop(inputs, self.p) * (1 - self.p) if self.training and self.p else inputs

    return mock.patch.object(dropout.Dropout, "forward", wrong)


def _activation(name: str, wrong: Callable[[], nn.Module]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch.dict("lightning_vgg.training.blocks._ACTIVATIONS", {name: wrong})


def _channels_swapped() -> AbstractContextManager[Any]:
    from keras_reference import data

    right = data.normalize
    return mock.patch.object(data, "normalize", lambda images, *rest: right(images[..., ::-1], *rest))


def _same_draws_every_epoch() -> AbstractContextManager[Any]:
    from keras_reference import data

    return mock.patch.object(data, "draw_epoch", lambda seed, epoch, *rest, **more: draw_epoch(seed, 0, *rest, **more))


def _flatten_as_it_lies() -> AbstractContextManager[Any]:
    return mock.patch("keras_reference.weights.reorder_flattened", lambda tensor, shape, to_keras: tensor)


def _hard_labels() -> AbstractContextManager[Any]:
    def wrong(self: Pair, logits: np.ndarray, batch: Batch) -> np.ndarray:
        return nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(batch.labels)).numpy()

    return mock.patch.object(Pair, "torch_loss_of", wrong)


def _clipped_by_tensor() -> AbstractContextManager[Any]:
    def wrong(parameters: Any, max_norm: float, epsilon: float) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                nn.utils.clip_grad_norm_([parameter], max_norm)

    return mock.patch("parity_tests.pair.clip_gradients", wrong)


def _on_a_backbone(spec: ModelSpec) -> ModelSpec:
    """VGG16's first two blocks, untrained, that read BGR as Keras's weights do."""
    backbone = BackboneSpec("none", "keras_caffe", "block2_pool", "average", image_size=12)
    return replace(spec, backbone=backbone, network=replace(spec.network, conv_block="batch norm", filters=[128]))


def _preprocessed_as_rgb() -> AbstractContextManager[Any]:
    from keras_reference.transfer import Backbone

    right = Backbone.preprocess
    return mock.patch.object(
        Backbone, "preprocess", lambda *arguments: lambda images: right(*arguments)(images[..., ::-1])
    )


def _torchvisions_preprocessing() -> AbstractContextManager[Any]:
    return mock.patch.dict(PREPROCESSING, {"keras_caffe": replace(PREPROCESSING["torchvision"], bgr=True)})


def _first_kernel_as_it_lies() -> AbstractContextManager[Any]:
    from keras_reference.transfer import Backbone

    right = Backbone.tensors
    return mock.patch.object(Backbone, "tensors", lambda self: (replace(tensor, bgr=False) for tensor in right(self)))


def _resized(**settings: bool) -> Callable[[], AbstractContextManager[Any]]:
    def wrong(images: torch.Tensor, size: int) -> torch.Tensor:
        return nn.functional.interpolate(images, (size, size), mode="bilinear", **settings)  # type: ignore[arg-type]

    return lambda: mock.patch("parity_tests.transfer_ladder.resize", wrong)


def _maximum_for_the_average() -> AbstractContextManager[Any]:
    return mock.patch(
        "lightning_vgg.training.transfer.Backbone.pool", lambda self, hidden: hidden.amax((2, 3), keepdim=True)
    )


@contextmanager
def _nothing_frozen() -> Iterator[None]:
    """In torch: every layer requires gradients and is among the optimizer's."""
    from lightning_vgg.training.transfer import Backbone

    right = Backbone.freeze
    with (
        mock.patch.object(Backbone, "freeze", lambda self, layers: right(self, 0)),
        mock.patch(
            "parity_tests.transfer_ladder.parameter_groups",
            lambda network, plan: [ParameterGroup([*network.parameters()], 1.0)],
        ),
    ):
        yield


def _one_rate_for_all_blocks() -> AbstractContextManager[Any]:
    from parity_tests import transfer_ladder

    right = transfer_ladder.parameter_groups
    return mock.patch.object(
        transfer_ladder, "parameter_groups", lambda *plan: [group._replace(rate_factor=1.0) for group in right(*plan)]
    )


MUTANTS = [
    Mutant("torch's epsilon, torch's formula", _steps("adam"), ("adam_epsilon", "adam_formula")),
    Mutant("Keras's epsilon, torch's formula", _steps("adam"), ("adam_formula",)),
    Mutant("betas that float32 rounds", _steps("adam"), plant=lambda: mock.patch("keras_reference.optim.exact", float)),
    Mutant("unbiased running variance", _steps("sgd"), ("batch_norm_variance",)),
    Mutant("torch's batch-norm epsilon", _FORWARD, ("batch_norm_epsilon",)),
    Mutant("torch's batch-norm momentum", _steps("sgd"), ("batch_norm_momentum",)),
    Mutant(
        "strided convolution padded on both sides",
        _FORWARD,
        ("strided_padding",),
        spec=_recipe("conv(stride 2) - batch norm"),
    ),
    Mutant("weight decay in the gradient", _steps("nesterov"), ("weight_decay",)),
    Mutant("AdamW with torch's decay", _steps("own"), ("adamw_decay",), spec=_optimizer(name="adamw")),
    Mutant("velocity without the rate, rate moving", _steps("nesterov"), ("sgd_velocity",)),
    Mutant("1e-6 added to the clipped norm", _CLIPPING, ("clip_epsilon",)),
    Mutant("each tensor clipped by itself", _CLIPPING, plant=_clipped_by_tensor),
    Mutant("torch's initialization", _one(Ladder.initialization), ("initialization",)),
    Mutant("flattened as (H, W, C) lies in Keras", _FORWARD, plant=_flatten_as_it_lies),
    Mutant("probabilities clipped in the loss", _LOSS, plant=_probabilities_clipped),
    Mutant(
        "label smoothing forgotten", _LOSS, spec=lambda spec: replace(spec, label_smoothing=0.1), plant=_hard_labels
    ),
    Mutant(
        "one wrong momentum",
        _steps("sgd"),
        plant=lambda: _torch_steps_with(lambda optimizer, rates: (replace(optimizer, momentum=0.876), rates)),
    ),
    Mutant(
        "schedule one step early",
        _steps("nesterov"),
        plant=lambda: _torch_steps_with(lambda optimizer, rates: (optimizer, np.append(rates[1:], rates[-1]))),
    ),
    Mutant(
        "decay of biases and batch norm",
        _steps("adamw"),
        plant=lambda: _torch_steps_with(lambda optimizer, rates: (replace(optimizer, decay_all=True), rates)),
    ),
    Mutant("frozen batch norm keeps counting", _FROZEN, plant=_statistics_move_while_frozen),
    Mutant("dropout without the factor 1/(1 - rate)", _DROPOUT, plant=_dropout_not_inverted),
    Mutant(
        "torch's slope of leaky ReLU",
        _FORWARD,
        spec=_recipe("conv(leaky relu) - maxpool"),
        plant=_activation("leaky relu", nn.LeakyReLU),
    ),
    Mutant(
        "GELU by tanh",
        _FORWARD,
        spec=_recipe("conv(gelu) - maxpool"),
        plant=_activation("gelu", lambda: nn.GELU(approximate="tanh")),
    ),
    Mutant("channels swapped", _PREPROCESSING, plant=_channels_swapped),
    Mutant("the same draws in every epoch", _AUGMENTATION, plant=_same_draws_every_epoch),
    Mutant("mean over batches, the smaller last one alike", _EVALUATION, plant=_scores_weigh_batches_alike),
    Mutant("last partial batch dropped", _EVALUATION, plant=_without_last_batch),
    Mutant("RGB for weights that read BGR", _PREPROCESSING, plant=_preprocessed_as_rgb, spec=_on_a_backbone),
    Mutant(
        "torchvision's preprocessing for Keras's weights",
        _PREPROCESSING,
        plant=_torchvisions_preprocessing,
        spec=_on_a_backbone,
    ),
    Mutant("first kernel not turned around", _EMBEDDINGS, plant=_first_kernel_as_it_lies, spec=_on_a_backbone),
    Mutant("resized with antialiasing", _RESIZE, plant=_resized(antialias=True), spec=_on_a_backbone),
    Mutant("resized between the corners", _RESIZE, plant=_resized(align_corners=True), spec=_on_a_backbone),
    Mutant("maximum taken for the average", _EMBEDDINGS, plant=_maximum_for_the_average, spec=_on_a_backbone),
    Mutant("frozen layers train", _FINE_TUNING, plant=_nothing_frozen, spec=_on_a_backbone),
    Mutant("one rate for all blocks", _FINE_TUNING, plant=_one_rate_for_all_blocks, spec=_on_a_backbone),
]


def plain_spec() -> ModelSpec:
    """A network small enough for a test, with every layer the faults need."""
    return ModelSpec(network=NetworkSpec(filters=[4, 6], units=[8]))
