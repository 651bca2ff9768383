"""The recipe grammar: what it reads, what it prints, and what it says about a line that is at fault."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_vgg.experiment.recipe import (
    ACTIVATIONS,
    INITIALIZERS,
    Activation,
    AveragePool,
    BatchNorm,
    BlockKind,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    GlobalMaxPool,
    Group,
    Layer,
    MaxPool,
    Recipe,
    RecipeError,
    SpatialDropout,
    ZeroPadding,
    parse_recipe,
)


def layers(text: str, kind: BlockKind | None = None) -> list[Layer]:
    return list(parse_recipe(text, kind).layers())


# --- what it reads ----------------------------------------------------------------------------------------------------

LESSON: list[tuple[str, BlockKind, list[Layer]]] = [
    (
        "Block: conv - batch norm - conv - maxpool - dropout",
        "conv",
        [Conv(), BatchNorm(), Conv(), MaxPool(), Dropout()],
    ),
    (
        "batch norm - conv - batch norm - conv - maxpool - dropout",
        "conv",
        [BatchNorm(), Conv(), BatchNorm(), Conv(), MaxPool(), Dropout()],
    ),
    ("conv - batch norm - conv - batch norm - maxpool", "conv", [Conv(), BatchNorm(), Conv(), BatchNorm(), MaxPool()]),
    ("conv - dropout - conv - dropout - maxpool", "conv", [Conv(), Dropout(), Conv(), Dropout(), MaxPool()]),
    ("dense - dropout", "dense", [Dense(), Dropout()]),
    ("dense - batch norm", "dense", [Dense(), BatchNorm()]),
    ("dense - batch norm - dropout", "dense", [Dense(), BatchNorm(), Dropout()]),
]


@pytest.mark.parametrize(("line", "kind", "expected"), LESSON)
def test_lines_of_the_lesson(line: str, kind: BlockKind, expected: list[Layer]) -> None:
    assert layers(line) == expected
    assert layers(line, kind) == expected
    assert str(parse_recipe(line)) == line.removeprefix("Block: ")


def test_defaults_are_those_of_the_lesson() -> None:
    assert Conv() == Conv(kernel=3, stride=1, activation="relu", bias=True)
    assert Dense() == Dense(activation="relu", bias=True)
    assert MaxPool() == MaxPool(size=2, stride=None)
    assert Dropout().rate is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv(5x5)", Conv(kernel=5)),
        ("conv( 5 × 5 )", Conv(kernel=5)),
        ("conv(linear)", Conv(activation="linear")),
        ("conv(Leaky_ReLU)", Conv(activation="leaky relu")),
        ("conv(stride 2)", Conv(stride=2)),
        ("conv(no bias)", Conv(bias=False)),
        ("conv(no bias, stride 2, 7x7, gelu)", Conv(7, 2, "gelu", False)),
        ("conv(valid)", Conv(padding="valid")),
        ("conv(same, 2x2)", Conv(kernel=2)),
        ("conv(64 Filters, l2 5E-4, He_Normal)", Conv(filters=64, l2=5e-4, initializer="he normal")),
        ("dense(256 units, l2 .01)", Dense(units=256, l2=0.01)),
        ("batch norm(epsilon 1e-05, no bias)", BatchNorm(epsilon=1e-5, bias=False)),
        ("spatial dropout(.3)", SpatialDropout(0.3)),
        ("maxpool(3, same)", MaxPool(3, padding="same")),
        ("global max pool", GlobalMaxPool()),
        ("zero padding(2)", ZeroPadding(2)),
        ("leaky relu(slope 0.3)", Activation("leaky relu", 0.3)),
        ("batch norm(momentum 0.6)", BatchNorm(0.6)),
        ("batch norm(no scale, Momentum .6)", BatchNorm(0.6, scale=False)),
        ("dense(tanh)", Dense("tanh")),
        ("dense(no bias, linear)", Dense("linear", False)),
        ("maxpool(3)", MaxPool(3)),
        ("maxpool(3x3, stride 2)", MaxPool(3, 2)),
        ("average pool(4)", AveragePool(4)),
        ("dropout(0.4)", Dropout(0.4)),
        ("dropout(.4)", Dropout(0.4)),
        ("dropout(0)", Dropout(0.0)),
        ("global average pool", GlobalAveragePool()),
        *((name, Activation(name)) for name in ACTIVATIONS),
    ],
)
def test_arguments(text: str, expected: Layer) -> None:
    assert layers(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "conv - batch norm - maxpool",
        "BLOCK : Conv – Batch Norm — MAX POOL",
        "conv-batchnorm-maxpool",
        "  conv  -  batch_norm\n -\tmax  pool ",
        "(conv - (batch norm) - maxpool)",
    ],
)
def test_case_dashes_and_blanks_do_not_matter(text: str) -> None:
    assert layers(text) == [Conv(), BatchNorm(), MaxPool()]


def test_groups_repeat() -> None:
    recipe = parse_recipe("(conv - batch norm) x3 - maxpool")
    assert recipe == Recipe((Group((Conv(), BatchNorm()), 3), MaxPool()))
    assert list(recipe.layers()) == [Conv(), BatchNorm()] * 3 + [MaxPool()]
    assert layers("((conv) ×2 - dropout) * 2") == [Conv(), Conv(), Dropout()] * 2
    assert layers("(conv) X2") == [Conv()] * 2


def test_a_group_that_is_not_repeated_is_no_group() -> None:
    assert parse_recipe("(conv - relu) x1 - (maxpool)") == Recipe((Conv(), Activation("relu"), MaxPool()))


# --- what it prints ---------------------------------------------------------------------------------------------------

activations = st.sampled_from(ACTIVATIONS)
sizes = st.integers(1, 9999)
strides = st.none() | sizes
rates = st.none() | st.floats(0, 1, exclude_max=True).map(abs)  # abs: -0.0 has no spelling of its own
paddings = st.sampled_from(["same", "valid"])
initializers = st.none() | st.sampled_from(INITIALIZERS)
amounts = st.floats(0, 1e300).map(abs)
any_layer = st.one_of(
    st.builds(Conv, sizes, sizes, activations, st.booleans(), paddings, strides, initializers, amounts),
    st.builds(Dense, activations, st.booleans(), strides, initializers, amounts),
    st.builds(BatchNorm, rates, st.booleans(), st.none() | amounts, st.booleans()),
    st.builds(Dropout, rates),
    st.builds(SpatialDropout, rates),
    st.builds(MaxPool, sizes, strides, paddings),
    st.builds(AveragePool, sizes, strides, paddings),
    st.just(GlobalAveragePool()),
    st.just(GlobalMaxPool()),
    st.builds(ZeroPadding, sizes),
    st.builds(Activation, activations),
    st.builds(Activation, st.just("leaky relu"), st.none() | amounts),
)
any_items = st.recursive(
    st.lists(any_layer, min_size=1, max_size=4),
    lambda items: st.lists(any_layer | st.builds(Group, items.map(tuple), st.integers(2, 99)), min_size=1, max_size=4),
    max_leaves=12,
)


@given(any_items.map(tuple).map(Recipe))
@example(Recipe((Dropout(1e-05), Group((Group((Conv(),), 2),), 2))))
@example(Recipe((Dropout(5e-324), Dropout(0.1 + 0.2), Dropout(0.0))))
def test_what_is_printed_reads_back_as_the_same(recipe: Recipe) -> None:
    assert parse_recipe(str(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Block: conv – Batch Norm – conv(5x5) – dropout(.4)", "conv - batch norm - conv(5x5) - dropout(0.4)"),
        ("conv(3x3, relu, stride 1)", "conv"),
        ("maxpool(2, stride 2)", "maxpool(stride 2)"),
        ("dropout(0.00001)", "dropout(0.00001)"),
        ("(conv - leakyrelu) x 2", "(conv - leaky relu) x2"),
        ("dense(l2 5e-4, 10 units)", "dense(10 units, l2 0.0005)"),
        ("conv(NO BIAS, gelu, 5x5, stride 2)", "conv(5x5, stride 2, gelu, no bias)"),
    ],
)
def test_canonical_spelling(text: str, printed: str) -> None:
    assert str(parse_recipe(text)) == printed


# --- what it says about a line at fault -------------------------------------------------------------------------------

words = st.sampled_from(
    [
        "conv",
        "batch norm",
        "maxpool",
        "dropout",
        "dense",
        "relu",
        "Block:",
        "block",
        "stride",
        "no bias",
        "x3",
        "x",
        ":",
        "5",
        "5x5",
        "0.4",
        "1e-05",
        "9" * 5000,
        "²",
        "٣",
        "nan",
        "inf",
        "(",
        ")",
        "-",
        "–",
        "—",
        ",",
        " ",
        "\n",
        "\t",
    ]
)
texts = st.text() | st.lists(words | st.text(max_size=3), max_size=12).map("".join)


@given(texts, st.sampled_from([None, "conv", "dense"]))
@example("(" * 2000 + "conv" + ")" * 2000, None)
@example("conv(" + "9" * 5000 + ")", None)
@example("(conv) x" + "9" * 5000, None)
def test_no_text_raises_anything_but_a_recipe_error(text: str, kind: BlockKind | None) -> None:
    try:
        recipe = parse_recipe(text, kind)
    except RecipeError as error:
        if text.strip() and "empty recipe" not in str(error):
            line, carets = str(error).split("\n")[-2:]
            assert carets.strip(" ").strip("^") == ""
            assert 0 < len(carets) <= len(line) + 1  # no further than one past the end
    else:
        assert parse_recipe(str(recipe)) == recipe


# The line with the word at fault in ⟦brackets⟧ (without brackets: the place after the end), what the message says, and
# the word it suggests.
FAULTS: list[tuple[str, BlockKind | None, str, str | None]] = [
    ("conv - ⟦btach norm⟧ - conv", None, "unknown layer 'btach norm'", "batch norm"),
    ("conv - ⟦cnov⟧", None, "unknown layer 'cnov'", "conv"),
    ("Block: conv - ⟦max pol⟧ - dropout", None, "unknown layer", "maxpool"),
    ("⟦drop⟧ - conv", None, "unknown layer 'drop'", "dropout"),
    ("conv - ⟦averagepol⟧", None, "unknown layer", "average pool"),
    ("conv - ⟦global averge pool⟧", None, "unknown layer", "global average pool"),
    ("⟦dens⟧ - dropout", "dense", "unknown layer", "dense"),
    ("conv - ⟦rleu⟧", None, "unknown layer", "relu"),
    ("conv - ⟦xyzzy⟧", None, "unknown layer 'xyzzy'", None),
    ("conv(5x5, ⟦rleu⟧)", None, "'conv' has no argument 'rleu'", "relu"),
    ("conv(⟦sride 2⟧)", None, "'conv' has no argument", "stride 2"),
    ("conv(⟦no bais⟧)", None, "'conv' has no argument", "no bias"),
    ("dense(⟦lineer⟧)", None, "'dense' has no argument", "linear"),
    ("maxpool(⟦strde 2⟧)", None, "'maxpool' has no argument", "stride 2"),
    ("maxpool(⟦relu⟧)", None, "'maxpool' has no argument 'relu'", None),
    ("dense(⟦5x5⟧)", None, "'dense' has no argument '5x5'", None),
    ("batch norm(⟦3⟧)", None, "'batch norm' has no argument '3'", None),
    ("conv - relu(⟦3⟧)", None, "'relu' takes no arguments", None),
    ("conv(⟦5x3⟧)", None, "only square windows", None),
    ("conv(⟦64⟧)", None, "write '64 filters' or '64x64'", None),
    ("conv(⟦0x0⟧)", None, "at least 1", None),
    ("conv(⟦0 filters⟧)", None, "at least 1", None),
    ("conv(⟦64 units⟧)", None, "'conv' has no argument '64 units'", "64 filters"),
    ("conv(⟦l2 much⟧)", None, "'much' is not a number of at least 0", None),
    ("conv(⟦he nrmal⟧)", None, "'conv' has no argument", "he normal"),
    ("relu(⟦slope 0.3⟧)", None, "'relu' takes no arguments", None),
    ("leaky relu(⟦0.3⟧)", None, "'leaky relu' has no argument", "slope 0.3"),
    ("maxpool(2, ⟦stride 0⟧)", None, "at least 1", None),
    ("conv(5x5, ⟦7x7⟧)", None, "two values for its kernel", None),
    ("conv(relu, ⟦gelu⟧)", None, "two values for its activation", None),
    ("dropout(⟦1⟧)", None, "a dropout rate lies in [0, 1), '1' does not", None),
    ("dropout(⟦nan⟧)", None, "a dropout rate lies in [0, 1)", None),
    ("dropout(⟦half⟧)", None, "a dropout rate lies in [0, 1)", None),
    ("dropout(⟦-⟧0.5)", None, "'-' where an argument is expected", None),
    ("conv(⟦)⟧", None, "')' where an argument is expected", None),
    ("conv(5x5⟦-⟧5)", None, "'-' where ')' or ',' is expected", None),
    ("conv(5x5", None, "ends where ')' is expected", None),
    ("conv(5x5,", None, "ends where an argument is expected", None),
    ("conv -", None, "ends where a layer is expected", None),
    ("(conv - relu", None, "ends where ')' is expected", None),
    ("conv - ⟦-⟧ conv", None, "'-' where a layer is expected", None),
    ("⟦—⟧ conv", None, "'—' where a layer is expected", None),
    ("conv - ⟦)⟧", None, "')' where a layer is expected", None),
    ("conv⟦)⟧", None, "unexpected ')'", None),
    ("conv⟦,⟧ conv", None, "unexpected ','", None),
    ("(conv⟦,⟧ conv) x2", None, "',' where ')' or '-' is expected", None),
    ("(conv) ⟦y3⟧", None, "repeated with 'x3', not with 'y3'", None),
    ("(conv) ⟦x0⟧ - conv", None, "repeated with 'x3'", None),
    ("(conv) ⟦(⟧conv)", None, "repeated with 'x3'", None),
    ("conv - ⟦dense⟧", "conv", "'dense' is not allowed in a conv block", None),
    ("dense - ⟦maxpool⟧", "dense", "'maxpool' is not allowed in a dense block", None),
    ("dense - ⟦Global Average Pool⟧", "dense", "is not allowed in a dense block", None),
    ("conv -\t\t⟦btach norm⟧", None, "unknown layer", "batch norm"),
    ("conv -\n  ⟦btach norm⟧ -\n conv", None, "unknown layer", "batch norm"),
    ("(" * 50 + "⟦(⟧conv" + ")" * 51, None, "nest at most 50 deep", None),
]


@pytest.mark.parametrize(("marked", "kind", "says", "suggests"), FAULTS)
def test_an_error_points_at_the_word_and_names_the_nearest(
    marked: str, kind: BlockKind | None, says: str, suggests: str | None
) -> None:
    before, rest = (marked if "⟦" in marked else f"{marked}⟦ ⟧").split("⟦")
    word, after = rest.split("⟧")
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"{before}{word}{after}", kind)
    message, line, carets = str(caught.value).rsplit("\n", 2)
    assert says in message
    assert message.endswith(f"; did you mean {suggests!r}?") if suggests else "did you mean" not in message
    before, after = before.rpartition("\n")[2], after.partition("\n")[0]
    assert line.rstrip() == f"  {before}{word}{after}".replace("\t", " ").rstrip()
    assert carets == " " * (2 + len(before)) + "^" * len(word)


@pytest.mark.parametrize("text", ["", "   ", "Block:", "Block: \n"])
def test_an_empty_recipe(text: str) -> None:
    with pytest.raises(RecipeError, match="an empty recipe: write layers such as"):
        parse_recipe(text)


def test_a_line_break_at_the_end_does_not_hide_the_line() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("conv -\n")
    assert str(caught.value).split("\n")[1:] == ["  conv -", "        ^"]


def test_a_word_over_two_lines_is_marked_on_its_first() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("conv - btach\nnrom")
    assert str(caught.value).split("\n")[1:] == ["  conv - btach", "         ^^^^^"]
