"""The optimizers against a few lines of numpy in float64, and against torch's own where the rules coincide."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_vgg.experiment.semantics import KERAS, TORCH, Semantics
from lightning_vgg.experiment.specs import OptimizerSpec
from lightning_vgg.training.optim import build_optimizer, clip_gradients
from lightning_vgg.training.velocity_sgd import VelocitySGD

STEPS = 20
RATES = 0.1 * np.linspace(1, 0.2, STEPS) * (1 + np.arange(STEPS) % 3)  # never twice the same
START = np.random.default_rng(1).normal(size=(3, 4))
GRADIENTS = np.random.default_rng(2).normal(size=(STEPS, 3, 4))


def parameter(value: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def trajectory(optimizer: Optimizer, weight: nn.Parameter, rates: np.ndarray = RATES) -> np.ndarray:
    """The weight after each step with GRADIENTS."""
    seen = []
    for rate, gradient in zip(rates, GRADIENTS, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        seen.append(weight.detach().numpy().copy())
    return np.stack(seen)


def one_weight() -> tuple[nn.Module, nn.Parameter]:
    network = nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(START))
    return network, network.weight


# --- SGD --------------------------------------------------------------------------------------------------------------


def sgd_in_numpy(
    rates: np.ndarray, momentum: float, nesterov: bool, rate_in_velocity: bool, decoupled: bool, decay: float
) -> Iterator[np.ndarray]:
    weight, velocity = START.copy(), np.zeros_like(START)
    for rate, gradient in zip(rates, GRADIENTS, strict=True):
        if decoupled:
            weight = weight - rate * decay * weight
        else:
            gradient = gradient + decay * weight
        if rate_in_velocity:  # Keras
            velocity = momentum * velocity - rate * gradient
            weight = weight + (momentum * velocity - rate * gradient if nesterov else velocity)
        else:  # torch
            velocity = momentum * velocity + gradient
            weight = weight - rate * (gradient + momentum * velocity if nesterov else velocity)
        yield weight


@pytest.mark.parametrize(
    ("momentum", "nesterov", "rate_in_velocity", "decoupled", "decay"),
    list(itertools.product([0.0, 0.875], [False, True], [False, True], [False, True], [0.0, 0.01])),
)
def test_velocity_sgd_against_numpy(
    momentum: float, nesterov: bool, rate_in_velocity: bool, decoupled: bool, decay: float
) -> None:
    weight = parameter(START)
    groups = [{"params": [weight], "weight_decay": decay}]
    optimizer = VelocitySGD(groups, 1.0, momentum, nesterov, rate_in_velocity=rate_in_velocity, decoupled=decoupled)
    expected = np.stack(list(sgd_in_numpy(RATES, momentum, nesterov, rate_in_velocity, decoupled, decay)))
    assert_allclose(trajectory(optimizer, weight), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay"),
    [
        (momentum, nesterov, decay)
        for momentum in (0.0, 0.875)
        for nesterov in (False, True)
        for decay in (0.0, 0.01)
        if momentum or not nesterov
    ],
)
def test_velocity_sgd_is_torchs_where_the_rules_coincide(momentum: float, nesterov: bool, decay: float) -> None:
    for rates, rate_in_velocity in ((RATES, False), (np.full(STEPS, 0.1), True)):
        ours, theirs = parameter(START), parameter(START)
        velocity_sgd = VelocitySGD(
            [{"params": [ours], "weight_decay": decay}],
            1.0,
            momentum,
            nesterov,
            rate_in_velocity=rate_in_velocity,
            decoupled=False,
        )
        sgd = torch.optim.SGD([theirs], 1.0, momentum, weight_decay=decay, nesterov=nesterov)
        assert_allclose(trajectory(velocity_sgd, ours, rates), trajectory(sgd, theirs, rates), rtol=1e-12, atol=1e-14)


def test_a_changing_rate_tells_the_velocities_apart() -> None:
    weights = [parameter(START), parameter(START)]
    with_rate, without = (
        trajectory(VelocitySGD([weight], 1.0, 0.875, rate_in_velocity=switch), weight)
        for weight, switch in zip(weights, (True, False), strict=True)
    )
    assert_allclose(with_rate[0], without[0], rtol=1e-14)
    assert np.abs(with_rate - without).max() > 0.1


def test_sgd_leaves_the_gradients_and_absent_ones_alone() -> None:
    moved, still = parameter(START), parameter(START)
    optimizer = VelocitySGD([{"params": [moved, still], "weight_decay": 0.1}], 0.5, 0.875, decoupled=False)
    moved.grad = torch.from_numpy(GRADIENTS[0].copy())
    optimizer.step()
    assert_allclose(still.detach().numpy(), START, rtol=0)
    assert_allclose(moved.grad.numpy(), GRADIENTS[0], rtol=0)
    assert np.abs(moved.detach().numpy() - START).min() > 0


def test_sgd_takes_a_closure() -> None:
    weight = parameter(START)
    optimizer = VelocitySGD([weight], 0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx((START**2).sum())
    assert_allclose(weight.detach().numpy(), 0, atol=1e-15)  # w - 0.5 * 2 w


# --- Adam -------------------------------------------------------------------------------------------------------------


def adam_in_numpy(beta1: float, beta2: float, epsilon: float, decay: float, corrected: bool) -> Iterator[np.ndarray]:
    """Keras's formula; with ``corrected`` the one of the paper, which torch has. The decay is decoupled."""
    weight, mean, square = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for step, (rate, gradient) in enumerate(zip(RATES, GRADIENTS, strict=True), start=1):
        weight = weight - rate * decay * weight
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        if corrected:
            corrected_mean, corrected_square = mean / (1 - beta1**step), square / (1 - beta2**step)
            weight = weight - rate * corrected_mean / (np.sqrt(corrected_square) + epsilon)
        else:
            alpha = rate * np.sqrt(1 - beta2**step) / (1 - beta1**step)
            weight = weight - mean * alpha / (np.sqrt(square) + epsilon)
        yield weight


# A large epsilon, too, so that its place shows in every digit.
@pytest.mark.parametrize("epsilon", [None, 1e-2])
@pytest.mark.parametrize(
    ("semantics", "name", "decay"),
    [
        (KERAS, "adam", None),
        (KERAS, "adam", 0.02),
        (KERAS, "adamw", None),
        (KERAS, "adamw", 0.02),
        (TORCH, "adam", None),
        (TORCH, "adamw", None),
        (TORCH, "adamw", 0.02),
    ],
)
def test_adam_against_numpy(semantics: Semantics, name: str, decay: float | None, epsilon: float | None) -> None:
    network, weight = one_weight()
    spec = OptimizerSpec(name=name, epsilon=epsilon, weight_decay=decay)  # type: ignore[arg-type]
    default_epsilon, default_decay = (1e-7, 0.004) if semantics is KERAS else (1e-8, 0.01)
    expected = adam_in_numpy(
        0.9,
        0.999,
        epsilon or default_epsilon,
        (default_decay if name == "adamw" else 0) if decay is None else decay,
        corrected=semantics is TORCH,
    )
    result = trajectory(build_optimizer(network, spec, semantics), weight)
    assert_allclose(result, np.stack(list(expected)), rtol=1e-13, atol=1e-13)


def test_coupled_decay_of_adam_is_in_the_gradient() -> None:
    network, weight = one_weight()
    theirs = parameter(START)
    ours = build_optimizer(network, OptimizerSpec(name="adam", weight_decay=0.02), TORCH)
    plain = torch.optim.Adam([theirs])
    for gradient in GRADIENTS:
        weight.grad = torch.from_numpy(gradient.copy())
        theirs.grad = torch.from_numpy(gradient) + 0.02 * theirs.detach()
        ours.step(), plain.step()
    torch.testing.assert_close(weight, theirs, rtol=1e-13, atol=1e-13)


def test_betas_are_those_of_the_spec() -> None:
    network, weight = one_weight()
    spec = OptimizerSpec(name="adam", beta1=0.5, beta2=0.75, epsilon=1e-3)
    result = trajectory(build_optimizer(network, spec, KERAS), weight)
    assert_allclose(result, np.stack(list(adam_in_numpy(0.5, 0.75, 1e-3, 0, corrected=False))), rtol=1e-13, atol=1e-13)


# --- which parameters -------------------------------------------------------------------------------------------------


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1)  # none is 0, which would shrink to 0
    return network


@pytest.mark.parametrize("semantics", [KERAS, TORCH])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_all", [True, False])
def test_decay_of_vectors(semantics: Semantics, name: str, decay_all: bool) -> None:
    network = small_network()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    spec = OptimizerSpec(name=name, learning_rate=0.5, weight_decay=0.1, decay_all=decay_all)  # type: ignore[arg-type]
    optimizer = build_optimizer(network, spec, semantics)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for key, weight in network.named_parameters():
        factor = 0.95 if decay_all or weight.ndim > 1 else 1.0
        torch.testing.assert_close(weight, before[key] * factor, rtol=1e-14, atol=0)


@pytest.mark.parametrize("decay_all", [True, False])
def test_frozen_parameters_are_left_out(decay_all: bool) -> None:
    network = small_network()
    network[0].requires_grad_(False)
    optimizer = build_optimizer(network, OptimizerSpec(weight_decay=0.1, decay_all=decay_all), KERAS)
    optimized = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert optimized == {id(weight) for weight in network[1:].parameters()}


# --- a resumed run ----------------------------------------------------------------------------------------------------

OPTIMIZERS = [
    OptimizerSpec(name="sgd", learning_rate=0.1),
    OptimizerSpec(name="sgd", learning_rate=0.1, momentum=0.875, weight_decay=0.01),
    OptimizerSpec(name="sgd", learning_rate=0.1, momentum=0.875, nesterov=True, weight_decay=0.01, decay_all=False),
    OptimizerSpec(name="adam", learning_rate=0.1, epsilon=1e-2),
    OptimizerSpec(name="adamw", learning_rate=0.1, epsilon=1e-2, decay_all=False),
]


@pytest.mark.parametrize("semantics", [KERAS, TORCH])
@pytest.mark.parametrize("spec", OPTIMIZERS)
def test_a_resumed_optimizer_goes_on_as_if_nothing_had_been(spec: OptimizerSpec, semantics: Semantics) -> None:
    def steps(network: nn.Module, optimizer: Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (step + 1)
            for weight in network.parameters():
                weight.grad = torch.randn(weight.shape, dtype=weight.dtype, generator=generator)
            optimizer.step()

    whole = small_network()
    steps(whole, build_optimizer(whole, spec, semantics), 0, 10)

    broken_off = small_network()
    optimizer = build_optimizer(broken_off, spec, semantics)
    steps(broken_off, optimizer, 0, 5)
    file = io.BytesIO()
    torch.save({"network": broken_off.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    resumed = small_network()
    resumed.load_state_dict(saved["network"])
    optimizer = build_optimizer(resumed, spec, semantics)
    optimizer.load_state_dict(saved["optimizer"])
    steps(resumed, optimizer, 5, 10)
    for expected, weight in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, expected)


# --- clipping ---------------------------------------------------------------------------------------------------------


def weights_with_gradients(scale: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((3, 4), (5,), (2, 2, 2))]
    for weight in weights:
        weight.grad = scale * torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    return [*weights, nn.Parameter(torch.zeros(3))]  # the last has none


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("max_norm", [0.5, 2.0])
def test_clipping_is_torchs_with_its_epsilon(scale: float, max_norm: float) -> None:
    ours, theirs = weights_with_gradients(scale), weights_with_gradients(scale)
    norm = clip_gradients(ours, max_norm, 1e-6)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm), rtol=1e-15, atol=0)
    for mine, yours in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-15, atol=0)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 100.0])
def test_clipping_without_epsilon(scale: float) -> None:
    """The formula of Keras's global_clipnorm: g · max_norm / max(norm, max_norm)."""
    weights, before = weights_with_gradients(scale), weights_with_gradients(scale)
    gradients = [weight.grad.numpy() for weight in before[:-1]]  # type: ignore[union-attr]
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    assert clip_gradients(iter(weights), 0.5, 0.0).item() == pytest.approx(norm, rel=1e-14)
    for weight, gradient in zip(weights[:-1], gradients, strict=True):
        assert_allclose(weight.grad.numpy(), gradient * 0.5 / max(norm, 0.5), rtol=1e-14)  # type: ignore[union-attr]
    if norm > 0.5:
        clipped = np.sqrt(sum((weight.grad**2).sum().item() for weight in weights[:-1]))  # type: ignore[misc, operator]
        assert clipped == pytest.approx(0.5, rel=1e-14)  # with the epsilon of torch it would fall short by 1e-6
