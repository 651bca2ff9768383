"""Known ways to get a port wrong, planted one at a time; each must be caught by the rung named beside it.

The list follows the differences between Keras and PyTorch; a mutant that no rung catches is a missing rung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

from keras_reference.transfer import Backbone as KerasBackbone
from lightning_vgg.experiment.draws import Draws, draw_epoch
from lightning_vgg.experiment.patience import EarlyStoppingSpec, PlateauSpec, stopping_reason
from lightning_vgg.experiment.specs import BackboneSpec, ModelSpec, NetworkSpec, OptimizerSpec
from lightning_vgg.images import decode
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.preprocessing import PREPROCESSING
from lightning_vgg.training import dropout
from lightning_vgg.training.averaging import Average
from lightning_vgg.training.blocks import ActivatedConv, ActivatedDense
from lightning_vgg.training.optim import ParameterGroup
from lightning_vgg.training.scores import Scores
from lightning_vgg.training.transfer import Backbone as TorchBackbone
from lightning_vgg.training.transfer import parameter_groups
from parity_tests.frameworks import keras
from parity_tests.ladder import OPTIMIZERS, Ladder, Report
from parity_tests.pair import Batch, KerasSide, Precision, TorchSide
from parity_tests.transfer_ladder import TransferLadder

Climb = Callable[[Ladder, Precision], Iterator[Report]]
Plant = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: what is wrong.
        climb: the rungs that must catch it (one is enough) and that pass without it.
        place: where `locate` must find it, ``kind of layer: quantity`` or ``stage: quantity``; ``*`` is anything.
        words: how it must say the two are related, where that is a simple thing.
        switches: semantics that the Lightning side gets wrong.
        plant: the fault as a patch.
        spec: how the experiment differs from the plain one, where the fault needs it.
        class_weights: of its ten classes, likewise.
        accumulated: batches of its steps, likewise.
        float32: whether it is large enough to be caught in float32, too.
    """

    name: str
    climb: Climb
    place: str
    switches: tuple[str, ...] = ()
    plant: Plant = nullcontext
    spec: Callable[[ModelSpec], ModelSpec] = field(default=lambda spec: spec)
    class_weights: tuple[float, ...] | None = None
    accumulated: int = 1
    float32: bool = False
    words: str = ""


def _one(rung: Callable[[Ladder, Precision], Report]) -> Climb:
    return lambda ladder, precision: iter([rung(ladder, precision)])


@cache
def _steps(name: str) -> Climb:
    """One and the same for an optimizer, so that its rungs without a fault are climbed once for all mutants."""
    return lambda ladder, precision: ladder.steps(name, precision) if precision == "float64" else ladder.one_step(name)


def _on_backbone(climb: Callable[[TransferLadder, Precision], Iterator[Report]]) -> Climb:
    def climb_it(ladder: Ladder, precision: Precision) -> Iterator[Report]:
        assert isinstance(ladder, TransferLadder)
        return climb(ladder, precision)

    return climb_it


_FORWARD = _one(Ladder.forward)
_LOSS = _one(Ladder.loss)
_GRADIENTS = _one(Ladder.gradients)
_DROPOUT = _one(lambda ladder, precision: ladder.dropout())
_FROZEN = _one(Ladder.frozen)
_CLIPPING = _one(Ladder.clipping)
_EVALUATION = _one(lambda ladder, precision: ladder.evaluation())
_SQUARES: Climb = lambda ladder, precision: ladder.squares()  # noqa: E731
_PREPROCESSING = _one(lambda ladder, precision: ladder.preprocessing())
_AUGMENTATION = _one(lambda ladder, precision: ladder.augmentation())
_PATIENCE: Climb = lambda ladder, precision: ladder.patience()  # noqa: E731
_ACCUMULATION: Climb = lambda ladder, precision: ladder.accumulation()  # noqa: E731
_AVERAGING: Climb = lambda ladder, precision: ladder.averaging()  # noqa: E731
_RESIZE = _on_backbone(lambda ladder, precision: iter([ladder.resize(precision)]))
_EMBEDDINGS = _on_backbone(TransferLadder.embeddings)
_FINE_TUNING = _on_backbone(TransferLadder.fine_tuning)


def _recipe(conv_block: str) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, network=replace(spec.network, conv_block=conv_block))


def _optimizer(**values: object) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, optimizer=OptimizerSpec(**values))


def _trained_by(name: str) -> Callable[[ModelSpec], ModelSpec]:
    optimizer, schedule = OPTIMIZERS[name]
    return lambda spec: replace(spec, optimizer=optimizer, schedule=schedule)


def _instead(target: str, wrong: object) -> Plant:
    """Something else under a name, such as ``package.module.Class.method``."""
    return lambda: mock.patch(target, wrong)


def _keras_draws_with(change: Callable[[Draws], Draws]) -> Plant:
    """Keras alone draws something else."""
    return _instead("keras_reference.data.draw_epoch", lambda *arguments: change(draw_epoch(*arguments)))


def _torch_steps_with(change: Callable[[OptimizerSpec, Any], tuple[OptimizerSpec, Any]]) -> Plant:
    """The Lightning side alone trains with another optimizer or other rates."""
    right = TorchSide.updates

    def wrong(
        self: TorchSide,
        backwards: Sequence[Callable[[], None]],
        optimizer: OptimizerSpec,
        rates: Sequence[float],
        clip: float | None,
    ) -> Iterator[None]:
        return right(self, backwards, *change(optimizer, rates), clip)

    return _instead("parity_tests.pair.TorchSide.updates", wrong)


def _loss_of_clipped_probabilities(self: KerasSide, logits: Any, batch: Batch) -> np.ndarray:
    """Keras clips them to [1e-7, 1 - 1e-7]."""
    # By way of numpy: where Keras still sees the softmax it goes back to the logits.
    probabilities = keras.ops.convert_to_tensor(np.asarray(keras.ops.softmax(logits)))
    return np.asarray(keras.ops.mean(keras.ops.sparse_categorical_crossentropy(batch.labels, probabilities)))


def _loss_of_hard_labels(self: TorchSide, logits: np.ndarray, batch: Batch) -> np.ndarray:
    return nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(batch.labels)).numpy()


def _loss_of_turned_weights(self: KerasSide, labels: np.ndarray, logits: Any) -> Any:
    assert self.class_weights is not None
    return self.loss_function(labels, logits, sample_weight=self.class_weights[::-1][labels])


def _half_of_the_penalty(layers: list[ActivatedConv | ActivatedDense]) -> torch.Tensor:
    return torch.stack([layer.l2 / 2 * layer.weight.square().sum() for layer in layers]).sum()


def _penalty_of_biases_too(layers: list[ActivatedConv | ActivatedDense]) -> torch.Tensor:
    return torch.stack([layer.l2 * tensor.square().sum() for layer in layers for tensor in layer.parameters()]).sum()


def _weigh_batches_alike(self: Scores, logits: Any, labels: Any, loss: Any, right: Any = Scores.update) -> None:
    right(self, logits, labels, loss * 50 / len(labels))  # four batches of 200 images in all


def _freeze_weights_alone(self: TorchSide, block: str) -> None:
    self.network.get_submodule(block).requires_grad_(False)


def _kept_without_factor(*arguments: Any, right: Any = dropout.kept) -> torch.Tensor:
    return right(*arguments) != 0


def _kept_in_torchs_order(
    keys: torch.Tensor, layer: int, rate: float, like: torch.Tensor, right: Any = dropout.kept
) -> torch.Tensor:
    return right(keys, layer, rate, like.flatten(1)).view(like.shape)


def _clip_each_tensor(parameters: Any, max_norm: float, epsilon: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            nn.utils.clip_grad_norm_([parameter], max_norm)


def _activation(name: str, wrong: Callable[[], nn.Module]) -> Plant:
    return lambda: mock.patch.dict("lightning_vgg.training.blocks._ACTIVATIONS", {name: wrong})


def _on_a_backbone(spec: ModelSpec) -> ModelSpec:
    """VGG16's first two blocks, untrained, that read BGR as Keras's weights do."""
    backbone = BackboneSpec("none", "keras_caffe", "block2_pool", "average", image_size=12)
    return replace(spec, backbone=backbone, network=replace(spec.network, conv_block="batch norm", filters=[128]))


def _torchvisions_preprocessing() -> AbstractContextManager[object]:
    return mock.patch.dict(PREPROCESSING, {"keras_caffe": replace(PREPROCESSING["torchvision"], bgr=True)})


def _preprocess_as_rgb(*arguments: Any, right: Any = KerasBackbone.preprocess) -> Any:
    return lambda images: right(*arguments)(images[..., ::-1])


def _tensors_as_they_lie(self: KerasBackbone, right: Any = KerasBackbone.tensors) -> Any:
    return (replace(tensor, bgr=False) for tensor in right(self))


def _photos_resized(rounded: Callable[[torch.Tensor], torch.Tensor] = torch.round, **settings: object) -> Plant:
    def wrong(photo: Image.Image, size: list[int]) -> Image.Image:
        pixels = torch.from_numpy(np.array(photo, np.float32)).permute(2, 0, 1)[None]
        resized = nn.functional.interpolate(pixels, size[::-1], **settings)  # type: ignore[arg-type]
        return Image.fromarray(rounded(resized)[0].permute(1, 2, 0).numpy().astype(np.uint8))

    return _instead("lightning_vgg.images.decode._interpolated", wrong)


def _cut_one_further_on(image: Image.Image, side: int, corner: list[int], right: Any = decode._cut) -> Image.Image:
    return right(image, side, [place + 1 for place in corner])


def _resized(**settings: bool) -> Plant:
    def wrong(images: torch.Tensor, size: int) -> torch.Tensor:
        return nn.functional.interpolate(images, (size, size), mode="bilinear", **settings)  # type: ignore[arg-type]

    return _instead("parity_tests.transfer_ladder.resize", wrong)


@contextmanager
def _nothing_frozen() -> Iterator[None]:
    """In torch: every layer requires gradients and is among the optimizer's."""
    right = TorchBackbone.freeze
    with (
        mock.patch.object(TorchBackbone, "freeze", lambda self, layers: right(self, 0)),
        mock.patch(_PARAMETER_GROUPS, lambda network, plan: [ParameterGroup([*network.parameters()], 1.0)]),
    ):
        yield


@torch.no_grad()
def _average_from_zero(self: Average, weights: list[torch.Tensor]) -> None:
    self.tensors = self.tensors or [torch.zeros_like(weight) for weight in weights]
    torch._foreach_lerp_(self.tensors, weights, 1 - self.momentum)


def _waits_for_one_more(spec: EarlyStoppingSpec, rows: Any) -> str | None:
    return stopping_reason(replace(spec, patience=spec.patience + 1), rows)


def _stopping(spec: ModelSpec) -> ModelSpec:
    return replace(spec, early_stopping=EarlyStoppingSpec(patience=2, min_delta=0.001))


def _lowering(spec: ModelSpec) -> ModelSpec:
    return replace(spec, reduce_on_plateau=PlateauSpec(patience=3, min_delta=0.001, cooldown=3, factor=0.5))


_PARAMETER_GROUPS = "parity_tests.transfer_ladder.parameter_groups"

_CLASS_WEIGHTS = (0.5, 2.0, 1.0, 1.0, 3.0, 1.0, 1.0, 0.25, 1.0, 1.0)

MUTANTS = [
    Mutant(
        "torch's epsilon, torch's formula",
        _steps("adam"),
        "optimizer: *, step 1",
        ("adam_epsilon", "adam_formula"),
        float32=True,
    ),
    Mutant("Keras's epsilon, torch's formula", _steps("adam"), "optimizer: *, step 1", ("adam_formula",), float32=True),
    Mutant(
        "betas that float32 rounds",
        _steps("adam"),
        "optimizer: *, step 1",
        plant=_instead("keras_reference.optim.exact", float),
    ),
    Mutant(
        "unbiased running variance",
        _steps("sgd"),
        "batch_norm: running variance",
        ("batch_norm_variance",),
        float32=True,
        words="= n/(n-1)",
    ),
    Mutant(
        "torch's batch-norm epsilon",
        _FORWARD,
        "batch_norm: output in evaluation",
        ("batch_norm_epsilon",),
        float32=True,
    ),
    Mutant(
        "torch's batch-norm momentum",
        _steps("sgd"),
        "batch_norm: running mean",
        ("batch_norm_momentum",),
        float32=True,
        words="another momentum: 0.9 instead of 0.99",
    ),
    Mutant(
        "strided convolution padded on both sides",
        _FORWARD,
        "conv: output before the activation",
        ("strided_padding",),
        spec=_recipe("conv(stride 2) - batch norm"),
        float32=True,
    ),
    Mutant(
        "weight decay in the gradient",
        _steps("nesterov"),
        "optimizer: *, step 1",
        ("weight_decay",),
        float32=True,
        spec=_trained_by("nesterov"),
    ),
    Mutant(
        "AdamW with torch's decay",
        _steps("own"),
        "optimizer: *, step 1",
        ("adamw_decay",),
        spec=_optimizer(name="adamw"),
        float32=True,
    ),
    Mutant(
        "velocity without the rate, rate moving",
        _steps("nesterov"),
        "optimizer: *, step 2",
        ("sgd_velocity",),
        spec=_trained_by("nesterov"),
    ),
    Mutant("1e-6 added to the clipped norm", _CLIPPING, "clipping: *", ("clip_epsilon",)),
    Mutant(
        "each tensor clipped by itself",
        _CLIPPING,
        "clipping: *",
        plant=_instead("parity_tests.pair.clip_gradients", _clip_each_tensor),
        float32=True,
    ),
    Mutant(
        "torch's initialization",
        _one(lambda ladder, precision: ladder.initialization()),
        "initialization: *",
        ("initialization",),
    ),
    Mutant(
        "flattened in Keras's order (H, W, C)",
        _FORWARD,
        "dense: output before the activation",
        plant=_instead("keras_reference.weights.reorder_flattened", lambda tensor, shape, to_keras: tensor),
        float32=True,
    ),
    Mutant(
        "probabilities clipped in the loss",
        _LOSS,
        "loss: value of sure logits",
        plant=_instead("parity_tests.pair.KerasSide.loss_of", _loss_of_clipped_probabilities),
        float32=True,
    ),
    Mutant(
        "label smoothing forgotten",
        _LOSS,
        "loss: value",
        plant=_instead("parity_tests.pair.TorchSide.loss_of", _loss_of_hard_labels),
        spec=lambda spec: replace(spec, label_smoothing=0.1),
        float32=True,
    ),
    Mutant(
        "weighted losses divided by the weights",
        _LOSS,
        "loss: value",
        ("weighted_mean",),
        class_weights=_CLASS_WEIGHTS,
        float32=True,
    ),
    Mutant(
        "class weights in another order",
        _LOSS,
        "loss: value",
        plant=_instead("parity_tests.pair.KerasSide.weighted_loss", _loss_of_turned_weights),
        class_weights=_CLASS_WEIGHTS,
        float32=True,
    ),
    Mutant(
        "half of the L2 penalty",
        _GRADIENTS,
        "conv: penalty",
        plant=_instead("lightning_vgg.training.penalty.l2_penalty", _half_of_the_penalty),
        spec=_recipe("conv(l2 0.1) - batch norm - conv - maxpool - dropout"),
        float32=True,
        words="ratio 0.5",
    ),
    Mutant(
        "L2 penalty of biases, too",
        _LOSS,
        "conv: penalty",
        plant=_instead("lightning_vgg.training.penalty.l2_penalty", _penalty_of_biases_too),
        spec=_recipe("conv(l2 0.1) - batch norm - conv - maxpool - dropout"),
        float32=True,
    ),
    Mutant(
        "one wrong momentum",
        _steps("sgd"),
        "optimizer: *, step 2",
        plant=_torch_steps_with(lambda optimizer, rates: (replace(optimizer, momentum=0.876), rates)),
        spec=_trained_by("sgd"),
    ),
    Mutant(
        "schedule one step early",
        _steps("nesterov"),
        "optimizer: *, step 1",
        plant=_torch_steps_with(lambda optimizer, rates: (optimizer, np.append(rates[1:], rates[-1]))),
        spec=_trained_by("nesterov"),
        words="= the rate of the next step",
    ),
    Mutant(
        "gradients carried over the epoch's end",
        _ACCUMULATION,
        "gradient accumulation: *",
        plant=_instead("keras_reference.optim.take_last_step", lambda model, missing: None),
        accumulated=3,
    ),
    Mutant(
        "average that begins at 0",
        _AVERAGING,
        "averaged weights: *",
        plant=_instead("parity_tests.pair.Average.update", _average_from_zero),
        spec=_optimizer(ema=0.75),
    ),
    Mutant(
        "momentum as the share of the new weights",
        _AVERAGING,
        "averaged weights: *",
        plant=_instead("parity_tests.pair.Average", lambda momentum: Average(1 - momentum)),
        spec=_optimizer(ema=0.75),
    ),
    Mutant(
        "decay of biases and batch norm",
        _steps("adamw"),
        "optimizer: *bias, step 1",
        plant=_torch_steps_with(lambda optimizer, rates: (replace(optimizer, decay_all=True), rates)),
        float32=True,
        spec=_trained_by("adamw"),
    ),
    Mutant(
        "frozen batch norm keeps counting",
        _FROZEN,
        "frozen layers: *.running_mean",
        plant=_instead("parity_tests.pair.TorchSide.freeze", _freeze_weights_alone),
        float32=True,
    ),
    Mutant(
        "dropout without the factor 1/(1 - rate)",
        _DROPOUT,
        "dropout: mask",
        plant=_instead("lightning_vgg.training.dropout.kept", _kept_without_factor),
        words="= 1 - rate",
    ),
    Mutant(
        "dropout counts units as (C, H, W)",
        _DROPOUT,
        "dropout: mask",
        plant=_instead("lightning_vgg.training.dropout.kept", _kept_in_torchs_order),
    ),
    Mutant(
        "all layers drop by one key",
        _DROPOUT,
        "dropout: mask",
        plant=_instead("lightning_vgg.training.dropout.layer_key", lambda name: 0),
    ),
    Mutant(
        "torch's slope of leaky ReLU",
        _FORWARD,
        "conv: output in evaluation",
        spec=_recipe("conv(leaky relu) - maxpool"),
        plant=_activation("leaky relu", nn.LeakyReLU),
        float32=True,
    ),
    Mutant(
        "GELU by tanh",
        _FORWARD,
        "conv: output in evaluation",
        spec=_recipe("conv(gelu) - maxpool"),
        plant=_activation("gelu", lambda: nn.GELU(approximate="tanh")),
        float32=True,
    ),
    Mutant(
        "photos interpolated between the corners",
        _SQUARES,
        "image files: *",
        plant=_photos_resized(mode="bilinear", align_corners=True),
    ),
    Mutant("photos by the nearest pixel", _SQUARES, "image files: *", plant=_photos_resized(mode="nearest-exact")),
    Mutant(
        "fractions of a grey level cut off",
        _SQUARES,
        "image files: *",
        plant=_photos_resized(torch.floor, mode="bilinear"),
    ),
    Mutant(
        "photos shrunk without antialiasing",
        _SQUARES,
        "image files: *",
        plant=_instead("lightning_vgg.images.decode._averaged", decode._interpolated),
    ),
    Mutant(
        "window of a crop one pixel further on",
        _SQUARES,
        "image files: *",
        plant=_instead("lightning_vgg.images.decode._cut", _cut_one_further_on),
    ),
    Mutant(
        "channels swapped",
        _PREPROCESSING,
        "preprocessing: images",
        plant=_instead("keras_reference.data.normalize", lambda images, *rest: normalize(images[..., ::-1], *rest)),
        words="the channels in reverse order",
    ),
    Mutant(
        "the same draws in every epoch",
        _AUGMENTATION,
        "batches of epoch 2: images",
        plant=_instead("keras_reference.data.draw_epoch", lambda seed, epoch, *rest: draw_epoch(seed, 0, *rest)),
    ),
    Mutant(
        "turned clockwise",
        _AUGMENTATION,
        "batches of epoch 1: images",
        plant=_keras_draws_with(lambda draws: replace(draws, turn=draws.turn * [1, -1])),
    ),
    Mutant(
        "crop with height and width swapped",
        _AUGMENTATION,
        "batches of epoch 1: images",
        plant=_keras_draws_with(lambda draws: replace(draws, crop=draws.crop[..., ::-1])),
    ),
    Mutant(
        "shares of mixed images swapped",
        _AUGMENTATION,
        "batches of epoch 1: labels",
        plant=_keras_draws_with(
            lambda draws: replace(draws, mixing=replace(draws.mixing, share=1 - draws.mixing.share))
        ),
    ),
    Mutant(
        "mean over batches, the smaller last one alike",
        _EVALUATION,
        "evaluation: val_loss",
        plant=_instead("lightning_vgg.training.scores.Scores.update", _weigh_batches_alike),
    ),
    Mutant(
        "last partial batch dropped",
        _EVALUATION,
        "evaluation: val_loss",
        plant=_instead("lightning_vgg.training.data.EvalLoader.__len__", lambda self: self.count // self.batch_size),
    ),
    Mutant(
        "patience for one epoch more",
        _PATIENCE,
        "early stopping: epochs",
        plant=_instead("parity_tests.patience.stopping_reason", _waits_for_one_more),
        spec=_stopping,
    ),
    Mutant(
        "torch's patience on a plateau", _PATIENCE, "reduce on plateau: rates", ("plateau_patience",), spec=_lowering
    ),
    Mutant(
        "torch's threshold on a plateau", _PATIENCE, "reduce on plateau: rates", ("plateau_threshold",), spec=_lowering
    ),
    Mutant(
        "torch's cooldown on a plateau", _PATIENCE, "reduce on plateau: rates", ("plateau_cooldown",), spec=_lowering
    ),
    Mutant(
        "RGB for weights that read BGR",
        _PREPROCESSING,
        "preprocessing: images",
        plant=_instead("keras_reference.transfer.Backbone.preprocess", _preprocess_as_rgb),
        spec=_on_a_backbone,
        words="the channels in reverse order",
    ),
    Mutant(
        "torchvision's preprocessing for Keras's weights",
        _PREPROCESSING,
        "preprocessing: images",
        plant=_torchvisions_preprocessing,
        words="another mean or scale of each channel",
        spec=_on_a_backbone,
    ),
    Mutant(
        "first kernel not turned around",
        _EMBEDDINGS,
        "conv: output before the activation",
        plant=_instead("keras_reference.transfer.Backbone.tensors", _tensors_as_they_lie),
        spec=_on_a_backbone,
        float32=True,
    ),
    Mutant(
        "resized with antialiasing",
        _RESIZE,
        "resize: *",
        plant=_resized(antialias=True),
        spec=_on_a_backbone,
        float32=True,
    ),
    Mutant(
        "resized between the corners",
        _RESIZE,
        "resize: *",
        plant=_resized(align_corners=True),
        spec=_on_a_backbone,
        float32=True,
    ),
    Mutant(
        "maximum taken for the average",
        _EMBEDDINGS,
        "pooling: output",
        plant=_instead(
            "lightning_vgg.training.transfer.Backbone.pool", lambda self, hidden: hidden.amax((2, 3), keepdim=True)
        ),
        spec=_on_a_backbone,
        float32=True,
    ),
    Mutant(
        "frozen layers train",
        _FINE_TUNING,
        "frozen layers: *",
        plant=_nothing_frozen,
        spec=_on_a_backbone,
        float32=True,
    ),
    Mutant(
        "one rate for all blocks",
        _FINE_TUNING,
        "learning-rate groups: *",
        plant=_instead(
            _PARAMETER_GROUPS, lambda *plan: [each._replace(rate_factor=1.0) for each in parameter_groups(*plan)]
        ),
        spec=_on_a_backbone,
        float32=True,
    ),
]


def plain_spec() -> ModelSpec:
    """A network small enough for a test, with every layer the faults need."""
    return ModelSpec(network=NetworkSpec(filters=[4, 6], units=[8]))
