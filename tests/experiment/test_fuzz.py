"""Whatever stands in a configuration or a recipe: it works, or an ExperimentError says why not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lightning_vgg import cli
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import plan_model
from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.parsing import framework_free_parser, known_keys
from lightning_vgg.experiment.schedule import rate_factors
from lightning_vgg.experiment.specs import ExperimentSpec, NetworkSpec

KEYS = sorted(key for key in known_keys(framework_free_parser("p", "d")) if key not in ("help", "config", "-c"))
WORDS = ["conv", "dense", "batch norm", "maxpool", "dropout", "(", ")", "-", "x3", "x9999", "relu", "0.5", "5x5", ","]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["sgd", "adam", "folder", "cosine", "step", "keras", "none", "conv - maxpool", "skip", "1e-3"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=2)
    ),
    max_leaves=4,
)
recipes = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join) | st.text(max_size=30)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *folders, leaf = key.split(".")
        node = tree
        for folder in folders:
            if not isinstance(node.get(folder), dict):
                node[folder] = {}
            node = node[folder]
        node[leaf] = value
    return tree


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
@example({"model.backbone": {"weights": 3}})
@example({"model.backbone.layer": None})
@example({"model.optimizer.learning_rate": float("nan")})
@example({"model.schedule.milestones": [None]})
def test_any_values_of_known_keys(tmp_path: Path, flat: dict[str, Any]) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(nested(flat), allow_unicode=True), encoding="utf-8")
    parser = framework_free_parser("p", "d")
    with contextlib.suppress(ExperimentError):
        config = parser.instantiate(parser.parse_args(["-c", str(path)]))
        if config.data.image_size < 5000 and config.model.backbone is None:
            plan_model(ExperimentSpec(model=config.model, data=config.data), 10)
        rates = rate_factors(config.model.schedule, 10)
        assert ((rates >= 0) & (rates <= 1)).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.binary(max_size=60))
@example("a: &a [*a]")
@example("? [a, b]\n: 1")
@example("!!python/object/apply:os.system [echo]")
@example("<<: {a: 1}")
def test_any_file(tmp_path: Path, contents: str | bytes) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ExperimentError):
        framework_free_parser("p", "d").parse_args(["-c", str(path)])


@settings(max_examples=300, deadline=None)
@given(recipes, recipes, st.integers(0, 64))
@example("((((conv) x9999) x9999) x9999)", "dense", 8)
def test_any_recipe(conv: str, dense: str, size: int) -> None:
    with contextlib.suppress(ExperimentError):
        plan_network(NetworkSpec(conv, [4, 4], dense, [3]), size, 10)


def test_a_bug_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(cli.PROGRAM.commands, "fit", ("no_such_module_of_ours", ""))
    assert cli.run(["fit"]) == 1
    said = capsys.readouterr().err
    assert "this is a bug of this project, not yours" in said
    assert "ModuleNotFoundError" in said
