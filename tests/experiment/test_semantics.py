"""The switches: what each is by default in either framework, and what each one alone changes."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.patience import PlateauSpec, plateau_factor
from lightning_vgg.experiment.semantics import KERAS, SWITCHES, TORCH, Semantics, resolve_semantics
from lightning_vgg.experiment.specs import DataSpec, ExperimentSpec, ModelSpec, NetworkSpec, OptimizerSpec
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.loss import TrainingLoss
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.optim import build_optimizer

# --- resolving --------------------------------------------------------------------------------------------------------


def test_without_exceptions() -> None:
    assert resolve_semantics("keras", []) == KERAS
    assert resolve_semantics("torch", []) == TORCH


@pytest.mark.parametrize("switch", SWITCHES)
def test_an_exception_takes_the_other_frameworks_value(switch: str) -> None:
    for name, base, other in (("keras", KERAS, TORCH), ("torch", TORCH, KERAS)):
        resolved = resolve_semantics(name, [switch])  # type: ignore[arg-type]
        changed = [key for key in SWITCHES if getattr(resolved, key) != getattr(base, key)]
        assert changed == [switch]
        assert getattr(resolved, switch) == getattr(other, switch)


def test_all_exceptions_together_are_the_other_framework() -> None:
    assert resolve_semantics("keras", list(SWITCHES)) == TORCH
    assert resolve_semantics("torch", [*SWITCHES, *SWITCHES]) == KERAS


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("batchnorm_epsilon", "batch_norm_epsilon"), ("adam_eps", "adam_epsilon"), ("initialisation", "initialization")],
)
def test_an_unknown_switch_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        resolve_semantics("keras", ["clip_epsilon", name])
    assert str(caught.value) == f"model.semantics_except: unknown switch {name!r}; did you mean {nearest!r}?"


def test_a_switch_unlike_any_lists_them_all() -> None:
    with pytest.raises(ExperimentError, match=r"there are initialization, .*, plateau_cooldown"):
        resolve_semantics("torch", ["xyzzy"])


def test_every_switch_is_explained() -> None:
    for switch in SWITCHES:
        assert f"        {switch}: " in (Semantics.__doc__ or "")


def test_the_network_and_its_module_follow_the_spec() -> None:
    spec = ModelSpec(NetworkSpec("conv - batch norm", [2]), semantics="torch", semantics_except=["batch_norm_epsilon"])
    model = VGGClassifier(ExperimentSpec(model=spec, data=DataSpec(image_size=4)), 2)
    assert model.spec.resolved_semantics == dataclasses.replace(TORCH, batch_norm_epsilon=1e-3)
    norm = model.network.get_submodule("block1.batch_norm1")
    assert (norm.eps, norm.momentum) == (1e-3, pytest.approx(0.1))


# --- torch's defaults are torch's -------------------------------------------------------------------------------------


def test_values_of_torch() -> None:
    def default(function: Callable[..., object], name: str) -> object:
        return inspect.signature(function).parameters[name].default

    assert default(nn.BatchNorm2d, "eps") == TORCH.batch_norm_epsilon
    assert default(nn.BatchNorm2d, "momentum") == pytest.approx(1 - TORCH.batch_norm_momentum)
    assert default(torch.optim.Adam, "eps") == default(torch.optim.AdamW, "eps") == TORCH.adam_epsilon
    assert default(torch.optim.AdamW, "weight_decay") == TORCH.adamw_decay


# --- every switch can be observed -------------------------------------------------------------------------------------


def layer(recipe: str, semantics: Semantics, size: int = 4) -> nn.Module:
    """One layer between one-channel images, in float64."""
    torch.manual_seed(0)
    spec = NetworkSpec(conv_block=recipe, filters=[1], units=[])
    (module,) = build_network(plan_network(spec, size, 2, 1), semantics).get_submodule("block1").children()
    return module.double()


def images(*values: float) -> Tensor:
    """One pixel an image."""
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def after_steps(spec: OptimizerSpec, semantics: Semantics, start: float, *steps: tuple[float, float]) -> float:
    """One weight after steps of (rate, gradient)."""
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, start)
    optimizer = build_optimizer(network, spec, semantics)
    for rate, gradient in steps:
        optimizer.param_groups[0]["lr"] = rate
        network.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
    return network.weight.item()


def initialization(semantics: Semantics) -> float:
    return layer("conv", semantics).bias.abs().max().item() > 0


def batch_norm_epsilon(semantics: Semantics) -> float:
    """At first the running variance is 1, so 1 becomes 1/√(1 + ε)."""
    return 1 / layer("batch norm", semantics).eval()(images(1)).item() ** 2 - 1


def batch_norm_momentum(semantics: Semantics) -> float:
    norm = layer("batch norm", semantics)
    norm(images(1, 1))
    return 1 - norm.running_mean.item()


def batch_norm_variance(semantics: Semantics) -> float:
    """0 and 2 have the variance 1, or 2 with the divisor n - 1; the old one is 1."""
    norm = layer("batch norm", semantics)
    norm(images(0, 2))
    return (norm.running_var.item() - 1) / norm.momentum + 1


def strided_padding(semantics: Semantics) -> float:
    """Which pixel of 0..15 the centre of the kernel meets first."""
    conv = layer("conv(stride 2, linear, no bias)", semantics)
    with torch.no_grad():
        conv.weight.zero_()[0, 0, 1, 1] = 1
    return conv(torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4))[0, 0, 0, 0].item()


def adam_epsilon(semantics: Semantics) -> float:
    """Without memory a step is g / (|g| + ε); 1e-7 / 2e-7 or 1e-7 / 1.1e-7."""
    return -after_steps(OptimizerSpec(name="adam", beta1=0.0, beta2=0.0), semantics, 0, (1, 1e-7))


def adam_formula(semantics: Semantics) -> float:
    """g = ε = 1, √v = 1/2 after one step: ½ · 1 / (½ + 1), or corrected 1 / (1 + 1)."""
    return -after_steps(OptimizerSpec(name="adam", beta1=0.0, beta2=0.75, epsilon=1), semantics, 0, (1, 1))


def adamw_decay(semantics: Semantics) -> float:
    return 1 - after_steps(OptimizerSpec(name="adamw"), semantics, 1, (1, 0))


def weight_decay(semantics: Semantics) -> float:
    """Decoupled: twice times 1 - ½ · ½. Coupled: g = ½, w = ¾; g = ⅜ and ¼ of velocity, w = ¾ - ½ · ⅝."""
    spec = OptimizerSpec(name="sgd", momentum=0.5, weight_decay=0.5)
    return after_steps(spec, semantics, 1, (0.5, 0), (0.5, 0))


def sgd_velocity(semantics: Semantics) -> float:
    """The second step is ½ · 1 + ½ · 1, or with the new rate on the old gradient, too, ½ · (½ + 1)."""
    return after_steps(OptimizerSpec(name="sgd", momentum=0.5), semantics, 0, (1, 1), (0.5, 1))


def clip_epsilon(semantics: Semantics) -> float:
    """A gradient of norm 1e-6 clipped to 1e-6: as it was, or half of it."""
    unlike_keras = [name for name in SWITCHES if getattr(semantics, name) != getattr(KERAS, name)]
    spec = ModelSpec(NetworkSpec("conv", [1], units=[]), semantics_except=unlike_keras)
    model = VGGClassifier(ExperimentSpec(model=spec, data=DataSpec(image_size=2)), 2).double()
    bias = model.network.get_parameter("classifier.bias")
    bias.grad = torch.tensor([1e-6, 0], dtype=torch.float64)
    model.configure_gradient_clipping(torch.optim.SGD([bias]), gradient_clip_val=1e-6)
    return bias.grad[0].item() / 1e-6


def weighted_mean(semantics: Semantics) -> float:
    """Two images with the loss log 2, of which one weighs 3: (1 + 3) / 2 times that, or (1 + 3) / 4."""
    loss = TrainingLoss(semantics, class_weights=torch.tensor([1.0, 3.0], dtype=torch.float64))
    return loss(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1])).item() / math.log(2)


def lowered(semantics: Semantics, spec: PlateauSpec, *losses: float) -> int:
    """How often."""
    rows = [{"val_loss": loss} for loss in losses]
    return round(math.log(plateau_factor(spec, semantics, 1.0, rows), spec.factor))


def plateau_patience(semantics: Semantics) -> float:
    return lowered(semantics, PlateauSpec(patience=2), 1, 1, 1)


def plateau_threshold(semantics: Semantics) -> float:
    """From 4 to 3 is more than ½, but less than half of 4."""
    exceeded = semantics.plateau_patience == "exceeded"
    return lowered(semantics, PlateauSpec(patience=1, min_delta=0.5), *[4, 3], *[3] * exceeded)


def plateau_cooldown(semantics: Semantics) -> float:
    """The second epoch without an improvement lowers the rate; of the two after it the last counts, or none does."""
    exceeded = semantics.plateau_patience == "exceeded"
    return lowered(semantics, PlateauSpec(patience=1, cooldown=2), *[1, 1], *[1] * exceeded, *[1, 1], *[1] * exceeded)


# The probe of each switch, what it sees in Keras, and what in torch.
PROBES: dict[str, tuple[Callable[[Semantics], float], float, float]] = {
    "initialization": (initialization, False, True),
    "batch_norm_epsilon": (batch_norm_epsilon, 1e-3, 1e-5),
    "batch_norm_momentum": (batch_norm_momentum, 0.99, 0.9),
    "batch_norm_variance": (batch_norm_variance, 1, 2),
    "strided_padding": (strided_padding, 5, 0),
    "adam_epsilon": (adam_epsilon, 1 / 2, 1 / 1.1),
    "adam_formula": (adam_formula, 1 / 3, 1 / 2),
    "adamw_decay": (adamw_decay, 0.004, 0.01),
    "weight_decay": (weight_decay, 0.5625, 0.4375),
    "sgd_velocity": (sgd_velocity, -2, -1.75),
    "clip_epsilon": (clip_epsilon, 1, 0.5),
    "weighted_mean": (weighted_mean, 2, 1),
    "plateau_patience": (plateau_patience, 1, 0),
    "plateau_threshold": (plateau_threshold, 0, 1),
    "plateau_cooldown": (plateau_cooldown, 2, 1),
}


def test_every_switch_has_a_probe() -> None:
    assert tuple(PROBES) == SWITCHES


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_changes_what_it_should_and_nothing_else(switch: str) -> None:
    keras_but_one, torch_but_one = resolve_semantics("keras", [switch]), resolve_semantics("torch", [switch])
    for name, (probe, in_keras, in_torch) in PROBES.items():
        assert probe(keras_but_one) == pytest.approx(in_torch if name == switch else in_keras, rel=1e-9)
        assert probe(torch_but_one) == pytest.approx(in_keras if name == switch else in_torch, rel=1e-9)


@pytest.mark.parametrize("semantics", [KERAS, TORCH])
def test_what_the_spec_says_outweighs_the_semantics(semantics: Semantics) -> None:
    decayed = after_steps(OptimizerSpec(name="adamw", weight_decay=0.25), semantics, 1, (1, 0))
    assert decayed == pytest.approx(0.75, rel=1e-14)
    assert after_steps(OptimizerSpec(name="adamw", weight_decay=0), semantics, 1, (1, 0)) == 1
    step = after_steps(OptimizerSpec(name="adam", beta1=0.0, beta2=0.0, epsilon=1), semantics, 0, (1, 1))
    assert step == pytest.approx(-0.5, rel=1e-14)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_only_adamw_decays_by_default(name: str) -> None:
    for semantics in (KERAS, TORCH):
        assert after_steps(OptimizerSpec(name=name), semantics, 1, (1, 0)) == 1  # type: ignore[arg-type]
