"""A Keras model of anybody's -> this project's recipes and neutral weights.

Chains of the layers in `_TRANSLATIONS` are taken, with every argument that is not Keras's default; anything else is
refused by the layer's name and place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_reference.weights import Tensors, network_tensors, plan_tensors
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.network_plan import NetworkPlan, plan_network
from lightning_vgg.experiment.recipe import (
    ACTIVATIONS,
    INITIALIZERS,
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    GlobalMaxPool,
    Layer,
    MaxPool,
    Recipe,
    SpatialDropout,
    ZeroPadding,
)
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import NetworkSpec, OptimizerSpec

Refuse = Callable[[str], ExperimentError]
_POOLS = MaxPool | AveragePool
_AFTER_POOL = Dropout | SpatialDropout | Activation | GlobalAveragePool | GlobalMaxPool


@dataclass(frozen=True)
class PortedModel:
    """What a Keras model comes down to.

    Attributes:
        network: its recipes.
        plan: of the network, for its images and classes.
        layers: the Keras layers, one for each of ``plan.layers``.
        mean, std: of pixels 0..255, what its first layers make 0 and 1, by channel; None if it has no such layers.
        optimizer: as compiled; None if it is not, or by an optimizer that is not known here.
        label_smoothing, clip: likewise; largest global norm of the gradients.
        notes: what of the model is not kept, each a sentence.
        softmax: whether the model ends in probabilities; the network here always ends in logits.
    """

    network: NetworkSpec
    plan: NetworkPlan
    layers: tuple[keras.layers.Layer, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    optimizer: OptimizerSpec | None
    label_smoothing: float = 0.0
    clip: float | None = None
    notes: tuple[str, ...] = ()
    softmax: bool = False

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of its pixels; where it does not scale them, those that make pixels 0..1."""
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        channels = self.plan.input_shape[-1]
        return (0.0,) * channels, (255.0,) * channels

    def weights(self) -> Tensors:
        """Values by neutral name, float32 or float64 as in the model."""
        return network_tensors(plan_tensors(self.plan, self.layers))


def port_model(model: keras.Model) -> PortedModel:
    """Read a model.

    Raises:
        ExperimentError: it is no chain of known layers, or one has a setting that cannot be kept; the layer is named.
    """
    size, channels = _input_shape(model)
    reader = _Reader()
    for layer in chain(model):
        reader.take(layer)
    network, layers = reader.network()
    for layer in layers:
        for variable in layer.weights:
            if variable.dtype not in ("float32", "float64"):
                raise ExperimentError(f"layer {layer.name!r}: its weights are {variable.dtype}, not float32 or float64")
    plan = plan_network(network, size, layers[-1].units, channels)
    compiled = _compiled(model, reader.notes)
    if reader.mean is None:
        reader.notes.append(
            "the model does not scale its pixels: data.mean and data.std make them 0 to 1; change them if it was "
            "trained otherwise"
        )
    softmax = reader.ended is not None
    return PortedModel(network, plan, tuple(layers), reader.mean, reader.std, *compiled, tuple(reader.notes), softmax)


def with_classifier(model: keras.Model, classes: int) -> keras.Model:
    """With pixels flattened and one unit for each class on top, freshly initialized."""
    return keras.Sequential(
        [keras.Input(model.input_shape[1:]), model, keras.layers.Flatten(), keras.layers.Dense(classes)]
    )


def chain(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers in order, those of models within the model written out.

    Raises:
        ExperimentError: the graph has a branch, or a layer is used twice.
    """
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise ExperimentError(
            f"model {model.name!r} is a subclass of keras.Model, whose graph cannot be read: rebuild it with "
            "keras.Sequential or the functional API"
        )
    is_chain = isinstance(model, keras.Sequential)
    before = None
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from chain(layer)
            before = None
        elif isinstance(layer, keras.layers.InputLayer):
            before = layer.output
        else:
            if not is_chain:
                _require_one_after_the_other(layer, before)
                before = layer.output
            yield layer


def _require_one_after_the_other(layer: keras.layers.Layer, before: Any) -> None:
    """Refuse a layer that does not take what the one before it puts out; None: that is a model, whose output is one."""
    if isinstance(layer.input, list | tuple | dict) or (before is not None and layer.input is not before):
        raise ExperimentError(
            f"layer {layer.name!r} does not take the output of the layer before it alone: the graph has a branch, or "
            "uses a layer twice, and only chains of layers can be ported"
        )


def _input_shape(model: keras.Model) -> tuple[int, int]:
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ExperimentError(f"the model's input is {shape}, not one image (batch, height, width, channels)")
    if shape[1] != shape[2]:
        raise ExperimentError(f"the model's images are {shape[1]} x {shape[2]} pixels: only square ones are known")
    if shape[3] not in (1, 3):
        raise ExperimentError(f"the model's images have {shape[3]} channels, not one or three")
    return shape[1], shape[3]


@dataclass
class _Reader:
    """Takes layer after layer.

    Attributes:
        pixels: what was taken up to the flatten, each with its Keras layer.
        features: what was taken from there on.
        notes, mean, std: as in `PortedModel`.
        flat: whether the flatten has come.
        ended: name of the layer that has the softmax.
        count: layers so far.
    """

    pixels: list[tuple[Layer, keras.layers.Layer]] = field(default_factory=list)
    features: list[tuple[Layer, keras.layers.Layer]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flat: bool = False
    ended: str | None = None
    count: int = 0

    def take(self, layer: keras.layers.Layer) -> None:
        self.count += 1
        place = f"layer {self.count}, {layer.name!r} ({type(layer).__name__})"

        def refuse(why: str) -> ExperimentError:
            return ExperimentError(f"{place}: {why}")

        if self.ended is not None:
            raise refuse(f"comes after the softmax of {self.ended!r}, which has to be the end")
        match layer:
            case keras.layers.Rescaling() | keras.layers.Normalization():
                self._take_normalization(layer, refuse)
            case keras.layers.Flatten():
                self.flat = True
            case keras.layers.Softmax():
                self.ended = layer.name
            case keras.layers.Activation() if _name(layer.activation) == "softmax":
                self.ended = layer.name
            case _:
                planned = _translate(layer, refuse, self.notes)
                if isinstance(planned, Dense) and _name(layer.activation) == "softmax":
                    self.ended = layer.name
                if isinstance(planned, Dense) and not self.flat and len(layer.input.shape) == 4:
                    raise refuse("a dense layer for every pixel; put a Flatten or a global pool before it")
                self.flat = self.flat or isinstance(planned, Dense)
                (self.features if self.flat else self.pixels).append((planned, layer))

    def _take_normalization(self, layer: keras.layers.Layer, refuse: Refuse) -> None:
        if self.pixels or self.features or self.mean is not None:
            raise refuse("only the first layer may scale the pixels")
        channels = layer.input.shape[-1]
        if isinstance(layer, keras.layers.Rescaling):
            scale, offset = (np.broadcast_to(np.float64(value), channels) for value in (layer.scale, layer.offset))
            if (scale <= 0).any():
                raise refuse(f"scale {layer.scale} is not above 0")
            mean, std = (0.0 - offset) / scale, 1 / scale  # no negative zero
        else:
            if layer.invert or layer.axis not in (-1, (-1,), (3,), 3):
                raise refuse("only by channel, and not inverted")
            mean, variance = (
                np.broadcast_to(np.asarray(value, np.float64).reshape(-1), channels)
                for value in (layer.mean, layer.variance)
            )
            std = np.maximum(np.sqrt(variance), keras.config.epsilon())
        self.mean, self.std = tuple(mean.tolist()), tuple(std.tolist())

    def network(self) -> tuple[NetworkSpec, list[keras.layers.Layer]]:
        """The recipes, and the layers in the plan's order."""
        heads = _split_heads(self.features)
        classifier = heads[-1][-1][0] if heads else None
        if not isinstance(classifier, Dense):
            raise ExperimentError(
                "the model does not end with a dense layer, one unit for each class: --classes puts one on top of it"
            )
        if classifier.activation != "linear":
            raise ExperimentError(
                f"the last layer is activated by {classifier.activation}: only logits or a softmax are known"
            )
        blocks = _split_blocks(self.pixels)
        heads = [*heads[:-1], heads[-1][:-1]] if len(heads[-1]) > 1 else heads[:-1]
        conv_block, filters = _spell(blocks, "filters")
        dense_block, units = _spell(heads, "units")
        last = Recipe((_without_width(classifier, "units"),))
        network = NetworkSpec(conv_block, filters, dense_block, units, classifier=str(last))
        return network, [layer for _, layer in (*self.pixels, *self.features)]


Taken = list[tuple[Layer, keras.layers.Layer]]


def _split_blocks(taken: Taken) -> list[Taken]:
    """A block ends with its pool and what belongs to that, such as dropout."""
    blocks: list[Taken] = []
    pooled = True
    for layer, source in taken:
        if not blocks or (pooled and not isinstance(layer, _AFTER_POOL)):
            blocks.append([])
            pooled = False
        blocks[-1].append((layer, source))
        pooled = pooled or isinstance(layer, _POOLS)
    return blocks


def _split_heads(taken: Taken) -> list[Taken]:
    """A block begins with its dense layer; what comes before the first one is part of its block.

    The last dense layer is the classifier: the last of the last block.
    """
    dense = [number for number, (layer, _) in enumerate(taken) if isinstance(layer, Dense)]
    if not dense or dense[-1] != len(taken) - 1:
        return []
    starts = [0, *dense[1:-1]]
    return [taken[start:end] for start, end in zip(starts, [*starts[1:], len(taken)], strict=True)]


def _spell(blocks: list[Taken], width: str) -> tuple[str | list[str], list[int]]:
    """The recipe of each block, one for all where they are the same, and the blocks' widths."""
    recipes: list[str] = []
    widths: list[int] = []
    for block in blocks:
        own: set[int] = {getattr(layer, width) for layer, _ in block if hasattr(layer, width)}
        same = len(own) == 1
        # A block whose layers have none, or each its own, needs a width all the same, which nothing uses.
        widths.append(own.pop() if same else 1)
        recipes.append(str(Recipe(tuple(_without_width(layer, width) if same else layer for layer, _ in block))))
    return (recipes[0] if recipes and len(set(recipes)) == 1 else recipes), widths


def _without_width(layer: Layer, width: str) -> Layer:
    return replace(layer, **{width: None}) if hasattr(layer, width) else layer  # type: ignore[arg-type]


def _translate(layer: keras.layers.Layer, refuse: Refuse, notes: list[str]) -> Layer:
    """One layer of a recipe, or a refusal."""
    for kind, translate in _TRANSLATIONS.items():
        if type(layer) is kind:
            _require_channels_last(layer, refuse)
            return translate(layer, refuse, notes)
    known = ", ".join(sorted(kind.__name__ for kind in _TRANSLATIONS))
    raise refuse(f"this kind of layer is not known; known are {known}, Flatten, Softmax, Rescaling and Normalization")


def _require_channels_last(layer: keras.layers.Layer, refuse: Refuse) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise refuse("data_format is channels_first: build the model with channels_last")


def _conv(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
    if layer.groups != 1 or set(layer.dilation_rate) != {1}:
        raise refuse("groups and dilation are not known")
    return Conv(
        kernel=_square(layer.kernel_size, "kernel", refuse),
        stride=_square(layer.strides, "strides", refuse),
        activation=_activation(layer.activation, refuse),
        bias=layer.use_bias,
        padding=layer.padding,
        filters=layer.filters,
        **_kernel(layer, refuse, notes),
    )


def _dense(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
    softmax = _name(layer.activation) == "softmax"
    activation = "linear" if softmax else _activation(layer.activation, refuse)
    return Dense(activation, layer.use_bias, layer.units, **_kernel(layer, refuse, notes))


def _kernel(layer: Any, refuse: Refuse, notes: list[str]) -> dict[str, Any]:
    for name in ("bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint"):
        if getattr(layer, name, None) is not None:
            raise refuse(f"{name} is not known; only kernel_regularizer is")
    if getattr(layer, "lora_rank", None) or getattr(layer, "quantization_mode", None):
        raise refuse("LoRA and quantized layers are not known")
    l2 = 0.0
    match layer.kernel_regularizer:
        case None:
            pass
        case keras.regularizers.L2():
            l2 = float(layer.kernel_regularizer.l2)
        case keras.regularizers.L1L2() if not layer.kernel_regularizer.l1:
            l2 = float(layer.kernel_regularizer.l2)
        case other:
            raise refuse(f"kernel_regularizer is {type(other).__name__}, only L2 is known")
    return {"initializer": _initializer(layer, notes), "l2": l2}


def _initializer(layer: Any, notes: list[str]) -> str | None:
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in _class(layer.kernel_initializer))
    name = words.strip()
    if name == "glorot uniform":  # Keras's default
        return None
    if name in INITIALIZERS:
        return name
    notes.append(
        f"{layer.name}: its initializer {_class(layer.kernel_initializer)} is not known; without the ported "
        "weights its kernel would start as glorot uniform"
    )
    return None


def _batch_norm(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    if axis not in (-1, len(layer.input.shape) - 1):
        raise refuse(f"axis {layer.axis} is not that of the channels")
    for name in ("beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint", "renorm"):
        if getattr(layer, name, None):
            raise refuse(f"{name} is not known")
    return BatchNorm(
        momentum=None if layer.momentum == KERAS.batch_norm_momentum else layer.momentum,
        scale=layer.scale,
        epsilon=None if layer.epsilon == KERAS.batch_norm_epsilon else layer.epsilon,
        bias=layer.center,
    )


def _dropout(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
    if layer.noise_shape is not None:
        raise refuse("noise_shape is not known")
    return Dropout(layer.rate)


def _pool(kind: type[MaxPool | AveragePool]) -> Callable[[Any, Refuse, list[str]], Layer]:
    def translate(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
        size, stride = (_square(value, "windows", refuse) for value in (layer.pool_size, layer.strides))
        return kind(size, None if stride == size else stride, layer.padding)

    return translate


def _global_pool(kind: type[GlobalAveragePool | GlobalMaxPool]) -> Callable[[Any, Refuse, list[str]], Layer]:
    def translate(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
        if layer.keepdims:
            raise refuse("keepdims is not known")
        return kind()

    return translate


def _zero_padding(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
    amounts = {amount for side in layer.padding for amount in side}
    if len(amounts) != 1:
        raise refuse(f"padding {layer.padding} is not the same on every side")
    return ZeroPadding(amounts.pop())


def _relu(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
    if layer.max_value is not None or layer.threshold or layer.negative_slope:
        raise refuse("max_value, threshold and negative_slope are not known; use LeakyReLU for a slope")
    return Activation("relu")


def _elu(layer: Any, refuse: Refuse, notes: list[str]) -> Layer:
    if layer.alpha != 1:
        raise refuse(f"alpha {layer.alpha} is not known, only 1")
    return Activation("elu")


_TRANSLATIONS: dict[type, Callable[[Any, Refuse, list[str]], Layer]] = {
    keras.layers.Conv2D: _conv,
    keras.layers.Dense: _dense,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.Dropout: _dropout,
    keras.layers.SpatialDropout2D: lambda layer, refuse, notes: SpatialDropout(layer.rate),
    keras.layers.MaxPooling2D: _pool(MaxPool),
    keras.layers.AveragePooling2D: _pool(AveragePool),
    keras.layers.GlobalAveragePooling2D: _global_pool(GlobalAveragePool),
    keras.layers.GlobalMaxPooling2D: _global_pool(GlobalMaxPool),
    keras.layers.ZeroPadding2D: _zero_padding,
    keras.layers.Activation: lambda layer, refuse, notes: Activation(_activation(layer.activation, refuse)),
    keras.layers.ReLU: _relu,
    keras.layers.LeakyReLU: lambda layer, refuse, notes: Activation("leaky relu", float(layer.negative_slope)),
    keras.layers.ELU: _elu,
}


def _square(sides: Sequence[int] | int, what: str, refuse: Refuse) -> int:
    sides = (sides,) if isinstance(sides, int) else tuple(sides)
    if len(set(sides)) != 1:
        raise refuse(f"{what} {sides}: only square ones are known")
    return sides[0]


def _activation(function: Any, refuse: Refuse) -> str:
    name = _name(function).replace("_", " ")
    if name not in ACTIVATIONS:
        raise refuse(
            f"the activation {name!r} is not known; known are {', '.join(ACTIVATIONS)}, and softmax at the end"
        )
    return name


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _class(thing: Any) -> str:
    return type(thing).__name__


def _compiled(model: keras.Model, notes: list[str]) -> tuple[OptimizerSpec | None, float, float | None]:
    """Optimizer, label smoothing and clipping of a compiled model."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return None, 0.0, None
    return _optimizer(optimizer, notes), _smoothing(model, notes), optimizer.global_clipnorm


def _optimizer(optimizer: Any, notes: list[str]) -> OptimizerSpec | None:
    kinds = {keras.optimizers.SGD: "sgd", keras.optimizers.Adam: "adam", keras.optimizers.AdamW: "adamw"}
    name = kinds.get(type(optimizer))
    if name is None or getattr(optimizer, "amsgrad", False) or optimizer.use_ema:
        notes.append(
            f"its optimizer {_class(optimizer)} is not known with these settings: choose model.optimizer yourself"
        )
        return None
    for setting in ("clipnorm", "clipvalue", "gradient_accumulation_steps", "loss_scale_factor"):
        if getattr(optimizer, setting, None) is not None:
            notes.append(f"its optimizer's {setting} is not kept: only global_clipnorm is known")
    if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        kind = _class(optimizer._learning_rate)
        notes.append(f"its schedule {kind} is not kept: the rate is that of its first step; set model.schedule")
        rate = float(optimizer._learning_rate(0))
    else:
        rate = float(np.asarray(optimizer.learning_rate))
    shared: dict[str, Any] = {"learning_rate": _short(rate), "weight_decay": optimizer.weight_decay}
    if name == "sgd":
        return OptimizerSpec("sgd", momentum=optimizer.momentum, nesterov=optimizer.nesterov, **shared)
    return OptimizerSpec(
        name,  # type: ignore[arg-type]
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=None if optimizer.epsilon == KERAS.adam_epsilon else optimizer.epsilon,
        **shared,
    )


def _short(rate: float) -> float:
    """The rate as it was written, of which the variable keeps float32's digits."""
    return float(np.format_float_positional(np.float32(rate), unique=True))


def _smoothing(model: keras.Model, notes: list[str]) -> float:
    loss = model.loss
    if isinstance(loss, keras.losses.CategoricalCrossentropy):
        return float(loss.label_smoothing)
    name = loss if isinstance(loss, str) else _class(loss)
    if name.lower().replace("_", "") not in ("sparsecategoricalcrossentropy", "categoricalcrossentropy"):
        notes.append(f"its loss {name} is not kept: experiments train on the cross-entropy")
    return 0.0
