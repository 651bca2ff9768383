"""OptimizerSpec -> a torch optimizer that follows the resolved semantics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.experiment.specs import OptimizerSpec, TricksSpec
from lightning_vgg.training.muon import MuonSGD
from lightning_vgg.training.velocity_sgd import VelocitySGD


class ParameterGroup(NamedTuple):
    """Parameters that begin to train together, their rate as a share of ``learning_rate``, and their decay likewise.

    ``muon`` says whether they are kernels for Muon, which knows no decay.
    """

    parameters: list[nn.Parameter]
    rate_factor: float
    decay_factor: float = 1.0
    muon: bool = False


def build_optimizer(
    network: nn.Module,
    spec: OptimizerSpec,
    semantics: Semantics,
    groups: Sequence[ParameterGroup] | None = None,
    tricks: TricksSpec | None = None,
) -> Optimizer:
    """The optimizer of ``network``.

    Args:
        network: the network.
        spec: the optimizer.
        semantics: the frameworks' differences, resolved.
        groups: what trains, some of it perhaps later; None for all parameters that require gradients.
        tricks: Muon and the rate of batch norm's biases; None for neither.
    """
    tricks = tricks or TricksSpec()
    muon_rate = tricks.muon_rate
    if groups is None:
        groups = [ParameterGroup([parameter for parameter in network.parameters() if parameter.requires_grad], 1.0)]
    decay = spec.weight_decay
    if decay is None:
        decay = semantics.adamw_decay if spec.name == "adamw" else 0.0
    groups = [each for group in groups for each in _without_norm_biases(group, network, tricks.batch_norm_bias_factor)]
    if muon_rate is not None:
        groups = [each for group in groups for each in _muon_apart(group, muon_rate / spec.learning_rate)]
    params = [
        {**param_group, "lr": spec.learning_rate * group.rate_factor} | ({"muon": True} if group.muon else {})
        for group in groups
        for param_group in _torch_groups(group.parameters, decay * group.decay_factor, spec.decay_all)
    ]
    decoupled = spec.name == "adamw" or semantics.weight_decay == "decoupled"
    if spec.name == "sgd":
        with_rate = semantics.sgd_velocity == "with_rate"
        if not with_rate and not decoupled and muon_rate is None:
            return torch.optim.SGD(params, spec.learning_rate, spec.momentum, nesterov=spec.nesterov, fused=True)
        kind = VelocitySGD if muon_rate is None else MuonSGD
        return kind(
            params, spec.learning_rate, spec.momentum, spec.nesterov, rate_in_velocity=with_rate, decoupled=decoupled
        )
    epsilon = semantics.adam_epsilon if spec.epsilon is None else spec.epsilon
    adam = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = adam(params, spec.learning_rate, (spec.beta1, spec.beta2), eps=epsilon, fused=True)
    if semantics.adam_formula == "uncorrected":
        for param_group in optimizer.param_groups:
            param_group["uncorrected_eps"], param_group["steps"] = epsilon, 0
        optimizer.register_step_pre_hook(correct_epsilon)
    return optimizer


def correct_epsilon(optimizer: Optimizer, args: object, kwargs: object) -> None:
    """Keras adds epsilon to √v, torch to √v / √(1 - beta2^t): dividing epsilon by that root makes them equal.

    t counts the steps of each parameter, as torch does; those of a group have begun to train together.
    """
    for group in optimizer.param_groups:
        # Not by the gradients: a trainer computes them inside the step, after this hook.
        if not any(parameter.requires_grad for parameter in group["params"]):
            continue  # still frozen
        group["steps"] += 1
        group["eps"] = group["uncorrected_eps"] / math.sqrt(1 - group["betas"][1] ** group["steps"])


def _without_norm_biases(group: ParameterGroup, network: nn.Module, factor: float) -> list[ParameterGroup]:
    """The group, and the biases of batch norms in a group of their own where their rate differs."""
    if factor == 1:
        return [group]
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    biases = {id(norm.bias) for norm in norms}
    kept = [parameter for parameter in group.parameters if id(parameter) not in biases]
    faster = [parameter for parameter in group.parameters if id(parameter) in biases]
    rate, decay = group.rate_factor * factor, group.decay_factor / factor
    return [group._replace(parameters=kept), ParameterGroup(faster, rate, decay)]


def _muon_apart(group: ParameterGroup, factor: float) -> list[ParameterGroup]:
    """The group without the kernels of convolutions, and these."""
    kernels = [parameter for parameter in group.parameters if parameter.ndim == 4]
    others = [parameter for parameter in group.parameters if parameter.ndim != 4]
    return [group._replace(parameters=others), ParameterGroup(kernels, group.rate_factor * factor, 0.0, muon=True)]


def _torch_groups(parameters: list[nn.Parameter], decay: float, decay_all: bool) -> list[PlainDict]:
    if decay_all or not decay:
        return [{"params": parameters, "weight_decay": decay}]
    # Biases and batch norm are vectors, kernels are not.
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def clip_gradients(parameters: Iterable[Tensor], max_norm: float, epsilon: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / (their common norm + epsilon)), in place; returns the norm.

    torch adds 1e-6 to the norm, Keras nothing.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    scale = (max_norm / (norm + epsilon)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)
    return norm
