"""Which default matters? The switches of ``semantics`` turned one at a time, on the Lightning side alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lightning_vgg.experiment.network_plan import NetworkPlan, plan_network
from lightning_vgg.experiment.semantics import SWITCHES
from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.dropout import set_mask_keys
from lightning_vgg.training.loss import TrainingLoss
from lightning_vgg.training.optim import build_optimizer, clip_gradients
from lightning_vgg.training.weights import network_tensors
from parity_tests.distance import distance
from parity_tests.pair import Batch

AFTER = (1, 10, 50)
BETWEEN_EPOCHS = {"plateau_patience", "plateau_threshold", "plateau_cooldown"}
"""Switches that show only from epoch to epoch, so not in fifty steps."""


@dataclass(frozen=True)
class Ablation:
    """How far one switch takes the parameters.

    Attributes:
        switch: its name.
        distances: worst tensor's max|difference| / max|reference| after 1, 10 and 50 steps.
        loss_change: of the 50th step, in nats.
    """

    switch: str
    distances: tuple[float, ...]
    loss_change: float


def ablate(
    experiment: ExperimentSpec, num_classes: int, batches: Sequence[Batch], class_weights: np.ndarray | None = None
) -> list[Ablation]:
    """Train in float64 with the experiment's own optimizer and schedule, as it is and with each switch turned.

    Both start from the same weights, but for the switch ``initialization``.

    Args:
        experiment: what is trained.
        num_classes: of its data.
        batches: at least 50, float64.
        class_weights: of its data.

    Returns:
        the switches, the most effective after 50 steps first.
    """
    spec, clip = experiment.model, experiment.trainer.gradient_clip_val
    plan = plan_network(spec.network, experiment.image_size, num_classes, experiment.data.channels)
    weights = None if class_weights is None else torch.from_numpy(class_weights)
    reference, reference_loss = _train(spec, plan, batches, clip, spec, weights)
    found = []
    for switch in SWITCHES:
        if switch in BETWEEN_EPOCHS or (switch == "weighted_mean" and weights is None):
            continue
        turned = replace(spec, semantics_except=sorted({*spec.semantics_except} ^ {switch}))
        start = turned if switch == "initialization" else spec
        tensors, loss = _train(turned, plan, batches, clip, start, weights)
        distances = tuple(distance(reference[step], tensors[step]).value for step in AFTER)
        found.append(Ablation(switch, distances, loss - reference_loss))
    return sorted(found, key=lambda ablation: -ablation.distances[-1])


def _train(
    spec: ModelSpec,
    plan: NetworkPlan,
    batches: Sequence[Batch],
    clip: float | None,
    start: ModelSpec,
    weights: torch.Tensor | None,
) -> tuple[dict[int, dict[str, np.ndarray]], float]:
    """Tensors after each of AFTER steps, and the last loss; ``start`` names the semantics that draw the weights."""
    semantics = spec.resolved_semantics
    torch.manual_seed(0)
    initial = build_network(plan, start.resolved_semantics).state_dict()
    network = build_network(plan, semantics).double()
    network.load_state_dict(initial, strict=False)
    optimizer = build_optimizer(network, spec.optimizer, semantics)
    loss_function = TrainingLoss(semantics, spec.label_smoothing, weights)
    rates = spec.learning_rates(AFTER[-1])
    snapshots, loss = {}, torch.tensor(0.0)
    for step, (batch, rate) in enumerate(zip(batches, rates, strict=False), start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        set_mask_keys(network, torch.from_numpy(batch.mask_keys))
        logits = network(torch.from_numpy(batch.images).permute(0, 3, 1, 2))
        loss = loss_function(logits, torch.from_numpy(batch.labels))
        loss.backward()
        if clip:
            clip_gradients(network.parameters(), clip, semantics.clip_epsilon)
        optimizer.step()
        if step in AFTER:
            snapshots[step] = network_tensors(network)
    return snapshots, loss.item()
