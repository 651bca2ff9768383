"""The recipe grammar: ``"conv - batch norm - conv - maxpool - dropout"`` -> `Recipe`.

    recipe  = ["Block:"] items
    items   = item {"-" item}                      an en or em dash is accepted, too
    item    = layer | "(" items ")" ["x" N]        a group, repeated N times
    layer   = word ["(" argument {"," argument} ")"]

Words ignore case and the blanks in them: ``max pool`` is ``maxpool``. As in Keras, ``conv`` and ``dense`` carry an
activation, ReLU unless an argument names another one: ``conv(5x5, linear)``. Their width is the block's, unless they
have one of their own: ``conv(64 filters)``, ``dense(256 units)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import ClassVar, Literal

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.nearest import nearest

ACTIVATIONS = ("linear", "relu", "leaky relu", "elu", "gelu", "silu", "tanh", "sigmoid")

INITIALIZERS = ("glorot uniform", "glorot normal", "he uniform", "he normal", "lecun uniform", "lecun normal")
"""Of kernels, as Keras defines them."""

BlockKind = Literal["conv", "dense"]


class RecipeError(ExperimentError):
    """A recipe that cannot be read; the message shows the line and points at the word."""


@dataclass(frozen=True)
class Conv:
    """Convolution with ``same`` or ``valid`` (no) padding, then its activation.

    ``filters`` is None for the block's width, ``initializer`` for that of the semantics; ``l2`` times the sum of the
    squared weights of the kernel is added to the training loss.
    """

    word: ClassVar[str] = "conv"
    kernel: int = 3
    stride: int = 1
    activation: str = "relu"
    bias: bool = True
    padding: Literal["same", "valid"] = "same"
    filters: int | None = None
    initializer: str | None = None
    l2: float = 0.0


@dataclass(frozen=True)
class Dense:
    """Fully connected layer, then its activation; ``units``, ``initializer`` and ``l2`` as in `Conv`."""

    word: ClassVar[str] = "dense"
    activation: str = "relu"
    bias: bool = True
    units: int | None = None
    initializer: str | None = None
    l2: float = 0.0


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization over all but the channel axis.

    ``momentum`` is the share of the OLD value that a running statistic keeps, ``epsilon`` is added to the variance;
    None is the semantics' default. Without ``scale`` there is no weight.
    """

    word: ClassVar[str] = "batch norm"
    momentum: float | None = None
    scale: bool = True
    epsilon: float | None = None
    bias: bool = True


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout; without a rate, the network's is used."""

    word: ClassVar[str] = "dropout"
    rate: float | None = None


@dataclass(frozen=True)
class SpatialDropout:
    """Dropout of whole channels; without a rate, the network's is used."""

    word: ClassVar[str] = "spatial dropout"
    rate: float | None = None


@dataclass(frozen=True)
class MaxPool:
    """Max pooling; the stride is the size unless given. ``same`` padding is never the largest."""

    word: ClassVar[str] = "maxpool"
    size: int = 2
    stride: int | None = None
    padding: Literal["same", "valid"] = "valid"


@dataclass(frozen=True)
class AveragePool:
    """Average pooling; the stride is the size unless given. ``same`` padding does not count."""

    word: ClassVar[str] = "average pool"
    size: int = 2
    stride: int | None = None
    padding: Literal["same", "valid"] = "valid"


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over all pixels: (height, width, channels) -> (channels,)."""

    word: ClassVar[str] = "global average pool"


@dataclass(frozen=True)
class GlobalMaxPool:
    """Maximum over all pixels: (height, width, channels) -> (channels,)."""

    word: ClassVar[str] = "global max pool"


@dataclass(frozen=True)
class ZeroPadding:
    """So many rows and columns of zeros on every side."""

    word: ClassVar[str] = "zero padding"
    pixels: int = 1


@dataclass(frozen=True)
class Activation:
    """An activation that stands alone, such as the ``relu`` after a batch norm.

    ``slope`` is that of a leaky ReLU below 0; None for 0.2.
    """

    name: str
    slope: float | None = None

    @property
    def word(self) -> str:
        return self.name


Layer = (
    Conv
    | Dense
    | BatchNorm
    | Dropout
    | SpatialDropout
    | MaxPool
    | AveragePool
    | GlobalAveragePool
    | GlobalMaxPool
    | ZeroPadding
    | Activation
)


@dataclass(frozen=True)
class Group:
    """``(items) xTIMES``; ``times`` is at least 2."""

    items: tuple[Layer | Group, ...]
    times: int


@dataclass(frozen=True)
class Recipe:
    """One block of a network: layers and repeated groups of layers, in order.

    ``str`` prints the canonical spelling, and ``parse_recipe(str(recipe)) == recipe``.

    >>> str(parse_recipe("Block: conv – Batch Norm – conv(5x5) – max pool – dropout(.4)"))
    'conv - batch norm - conv(5x5) - maxpool - dropout(0.4)'
    """

    items: tuple[Layer | Group, ...]

    def layers(self) -> Iterator[Layer]:
        """The layers with every group written out."""
        return _expand(self.items)

    def map(self, change: Callable[[Layer], Layer]) -> Recipe:
        """The recipe with every layer changed; groups stay groups.

        >>> str(parse_recipe("(conv - relu) x2").map(lambda layer: MaxPool() if layer == Activation("relu") else layer))
        '(conv - maxpool) x2'
        """
        return Recipe(_map(self.items, change))

    def __str__(self) -> str:
        return _spell_items(self.items)


def parse_recipe(text: str, kind: BlockKind | None = None) -> Recipe:
    """Read one block.

    Args:
        text: the recipe, ``Block:`` prefix allowed.
        kind: ``"conv"`` or ``"dense"`` accepts only the words that make sense in such a block; None accepts all.

    Raises:
        RecipeError: with the line, a caret under the word at fault, and the nearest word known.
    """
    return _Parser(text, kind).parse()


_WORDS: dict[str, type[Layer]] = {
    cls.word: cls
    for cls in (
        Conv,
        Dense,
        BatchNorm,
        Dropout,
        SpatialDropout,
        MaxPool,
        AveragePool,
        GlobalAveragePool,
        GlobalMaxPool,
        ZeroPadding,
    )
}
OF_PIXELS = (Conv, SpatialDropout, MaxPool, AveragePool, GlobalAveragePool, GlobalMaxPool, ZeroPadding)
"""Layers that need (height, width, channels)."""
_NOT_IN: dict[str, tuple[type[Layer], ...]] = {"conv": (Dense,), "dense": OF_PIXELS}


def _squeeze(word: str) -> str:
    return re.sub(r"[\s_]+", "", word).lower()


_LAYER_OF = {_squeeze(word): word for word in (*_WORDS, *ACTIVATIONS)}
_ACTIVATION_OF = {_squeeze(name): name for name in ACTIVATIONS}
_INITIALIZER_OF = {_squeeze(name): name for name in INITIALIZERS}
# What an argument at fault may have meant, by field.
_ARGUMENTS_OF = {
    "activation": _ACTIVATION_OF,
    "stride": {"stride2": "stride 2"},
    "bias": {"nobias": "no bias"},
    "padding": {"valid": "valid"},
    "momentum": {"momentum0.9": "momentum 0.9"},
    "scale": {"noscale": "no scale"},
    "filters": {"64filters": "64 filters"},
    "units": {"64units": "64 units"},
    "initializer": _INITIALIZER_OF,
    "l2": {"l20.0005": "l2 0.0005"},
    "epsilon": {"epsilon0.001": "epsilon 0.001"},
    "slope": {"slope0.3": "slope 0.3"},
}

_NUMBER = r"(\d{1,4})"  # bounded, since int() refuses thousands of digits
_MAX_DEPTH = 50  # of groups in groups; the parser calls itself for each


def _expand(items: tuple[Layer | Group, ...]) -> Iterator[Layer]:
    for item in items:
        if isinstance(item, Group):
            for _ in range(item.times):
                yield from _expand(item.items)
        else:
            yield item


def _map(items: tuple[Layer | Group, ...], change: Callable[[Layer], Layer]) -> tuple[Layer | Group, ...]:
    return tuple(
        Group(_map(item.items, change), item.times) if isinstance(item, Group) else change(item) for item in items
    )


def _spell_items(items: tuple[Layer | Group, ...]) -> str:
    return " - ".join(
        f"({_spell_items(item.items)}) x{item.times}" if isinstance(item, Group) else spell(item) for item in items
    )


def spell(layer: Layer) -> str:
    """The canonical spelling of one layer; arguments that equal their default are left out."""
    arguments: list[str] = []
    for field in fields(layer):
        value = getattr(layer, field.name)
        if value == field.default or field.name == "name":
            continue
        match field.name:
            case "filters" | "units":
                arguments.insert(0, f"{value} {field.name}")
            case "kernel" | "size":
                arguments.append(f"{value}x{value}")
            case "pixels":
                arguments.append(str(value))
            case "stride":
                arguments.append(f"stride {value}")
            case "bias" | "scale":
                arguments.append(f"no {field.name}")
            case "rate":
                arguments.append(_spell_number(value))
            case "momentum" | "epsilon" | "l2" | "slope":
                arguments.append(f"{field.name} {_spell_number(value)}")
            case _:
                arguments.append(value)
    return layer.word + (f"({', '.join(arguments)})" if arguments else "")


def _spell_number(value: float) -> str:
    return format(Decimal(repr(value)), "f")


@dataclass(frozen=True)
class _Token:
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class _Parser:
    """Recursive descent over the tokens of one line."""

    def __init__(self, text: str, kind: BlockKind | None) -> None:
        self.text = text
        self.kind = kind
        prefix = re.match(r"\s*block\s*:", text, re.IGNORECASE)
        start = prefix.end() if prefix else 0
        self.tokens = [
            _Token(match.group().strip(), match.start() + len(match.group()) - len(match.group().lstrip()))
            for match in re.compile(r"[()–—,-]|(?:(?<=\de)-(?=\d)|[^()–—,-])+", re.IGNORECASE).finditer(text, start)
            if match.group().strip()
        ]
        self.position = 0
        self.depth = 0

    def parse(self) -> Recipe:
        if not self.tokens:
            raise RecipeError("an empty recipe: write layers such as 'conv - batch norm - maxpool'")
        items = self._items()
        if (token := self._peek()) is not None:
            raise self._error(token, f"unexpected {token.text!r}")
        return Recipe(items)

    def _peek(self) -> _Token | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def _next(self, wanted: str) -> _Token:
        token = self._peek()
        if token is None:
            raise self._error(_Token(" ", len(self.text.rstrip())), f"the line ends where {wanted} is expected")
        self.position += 1
        return token

    def _items(self) -> tuple[Layer | Group, ...]:
        items = list(self._item())
        while (token := self._peek()) is not None and token.text in "-–—":
            self.position += 1
            items += self._item()
        return tuple(items)

    def _item(self) -> tuple[Layer | Group, ...]:
        token = self._next("a layer")
        if token.text == "(":
            return self._group(token)
        if token.text in ")-–—,":
            raise self._error(token, f"{token.text!r} where a layer is expected")
        return (self._layer(token),)

    def _group(self, opening: _Token) -> tuple[Layer | Group, ...]:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self._error(opening, f"groups nest at most {_MAX_DEPTH} deep")
        items = self._items()
        self._close()
        self.depth -= 1
        token = self._peek()
        if token is None or token.text in ")-–—":
            return items
        self.position += 1
        times = re.fullmatch(rf"[x×*]\s*{_NUMBER}", token.text, re.IGNORECASE)
        if times is None or int(times[1]) < 1:
            raise self._error(token, f"a group is repeated with 'x3', not with {token.text!r}")
        return items if int(times[1]) == 1 else (Group(items, int(times[1])),)

    def _close(self) -> None:
        token = self._next("')'")
        if token.text != ")":
            raise self._error(token, f"{token.text!r} where ')' or '-' is expected")

    def _layer(self, token: _Token) -> Layer:
        word = _LAYER_OF.get(_squeeze(token.text))
        if word is None:
            raise self._error(token, f"unknown layer {token.text!r}", known=_LAYER_OF)
        cls = _WORDS.get(word, Activation)
        if self.kind is not None and cls in _NOT_IN[self.kind]:
            raise self._error(token, f"{word!r} is not allowed in a {self.kind} block")
        arguments = self._arguments()
        takes = {field.name for field in fields(cls)} - {"name"}
        if cls is Activation and word != "leaky relu":
            takes.remove("slope")
        if arguments and not takes:
            raise self._error(arguments[0], f"{word!r} takes no arguments")
        values: dict[str, object] = {"name": word} if cls is Activation else {}
        for argument in arguments:
            name, value = self._argument(word, takes, argument)
            if name in values:
                raise self._error(argument, f"{word!r} is given two values for its {name}")
            values[name] = value
        return cls(**values)  # type: ignore[arg-type]

    def _arguments(self) -> list[_Token]:
        token = self._peek()
        if token is None or token.text != "(":
            return []
        self.position += 1
        arguments: list[_Token] = []
        while not arguments or token.text == ",":
            argument = self._next("an argument")
            if argument.text in "()–—,-":
                raise self._error(argument, f"{argument.text!r} where an argument is expected")
            arguments.append(argument)
            token = self._next("')'")
        if token.text != ")":
            raise self._error(token, f"{token.text!r} where ')' or ',' is expected")
        return arguments

    def _argument(self, word: str, takes: set[str], token: _Token) -> tuple[str, object]:
        """Name and value of an argument of a layer that takes these."""
        text = token.text.lower()
        if "rate" in takes:
            return "rate", self._fraction(token, token.text, "a dropout rate")
        if "kernel" in takes and (number := re.fullmatch(_NUMBER, text)):
            of = number[1]
            raise self._error(token, f"{of!r} alone may be filters or a kernel: write '{of} filters' or '{of}x{of}'")
        if "pixels" in takes and re.fullmatch(_NUMBER, text):
            return "pixels", self._positive(token, text)
        if size := re.fullmatch(rf"{_NUMBER}(?:\s*[x×]\s*{_NUMBER})?", text):
            name = next((name for name in ("kernel", "size") if name in takes), None)
            if name is not None:
                return name, self._square(token, size)
        if (width := re.fullmatch(rf"{_NUMBER}\s*(filters|units)", text)) and width[2] in takes:
            return width[2], self._positive(token, width[1])
        if (stride := re.fullmatch(rf"stride\s*{_NUMBER}", text)) and "stride" in takes:
            return "stride", self._positive(token, stride[1])
        if (without := re.fullmatch(r"no\s*(bias|scale)", text)) and without[1] in takes:
            return without[1], False
        if text in ("same", "valid") and "padding" in takes:
            return "padding", text
        if (momentum := re.fullmatch(r"momentum\s*(\S+)", text)) and "momentum" in takes:
            return "momentum", self._fraction(token, momentum[1], "a momentum")
        if (amount := re.fullmatch(r"(epsilon|slope|l2)\s+(\S+)", text)) and amount[1] in takes:
            return amount[1], self._amount(token, amount[2])
        for field, words in (("activation", _ACTIVATION_OF), ("initializer", _INITIALIZER_OF)):
            if field in takes and _squeeze(text) in words:
                return field, words[_squeeze(text)]
        meant: dict[str, str] = {}
        for field, words in _ARGUMENTS_OF.items():
            meant |= words if field in takes else {}
        raise self._error(token, f"{word!r} has no argument {token.text!r}", meant)

    def _square(self, token: _Token, match: re.Match[str]) -> int:
        if match[2] is not None and int(match[1]) != int(match[2]):
            raise self._error(token, f"only square windows are known, {token.text!r} is not one")
        return self._positive(token, match[1])

    def _positive(self, token: _Token, digits: str) -> int:
        if int(digits) < 1:
            raise self._error(token, f"{token.text!r} must be at least 1")
        return int(digits)

    def _fraction(self, token: _Token, text: str, what: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1:
            raise self._error(token, f"{what} lies in [0, 1), {text!r} does not")
        return value

    def _amount(self, token: _Token, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < math.inf:
            raise self._error(token, f"{text!r} is not a number of at least 0")
        return value

    def _error(self, token: _Token, message: str, known: dict[str, str] | None = None) -> RecipeError:
        words = known or {}
        guess = words.get(nearest(_squeeze(token.text), words, cutoff=0.5) or "")
        hint = f"; did you mean {guess!r}?" if guess else ""
        line_start = self.text.rfind("\n", 0, token.start) + 1
        # Each tab as one blank, so that the caret stands under the word.
        line = re.sub(r"\s", " ", self.text[line_start:].split("\n")[0])
        width = len(token.text.split("\n")[0])
        return RecipeError(f"{message}{hint}\n  {line}\n  {' ' * (token.start - line_start)}{'^' * width}")
