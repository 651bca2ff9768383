"""Which default matters? The switches of ``semantics`` turned one at a time, on the Lightning side alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from lightning_vgg.experiment.network_plan import NetworkPlan, plan_network
from lightning_vgg.experiment.semantics import SWITCHES
from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.dropout import set_mask_keys
from lightning_vgg.training.optim import build_optimizer, clip_gradients
from lightning_vgg.training.weights import network_tensors
from parity_tests.distance import distance
from parity_tests.pair import Batch

AFTER = (1, 10, 50)


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


def ablate(experiment: ExperimentSpec, num_classes: int, batches: Sequence[Batch]) -> list[Ablation]:
    """Train in float64 with the experiment's own optimizer and schedule, as it is and with each switch turned.

    Both start from the same weights, but for the switch ``initialization``.

    Args:
        experiment: what is trained.
        num_classes: of its data.
        batches: at least 50, float64.

    Returns:
        the switches, the most effective after 50 steps first.
    """
    spec, clip = experiment.model, experiment.trainer.gradient_clip_val
    plan = plan_network(spec.network, experiment.image_size, num_classes, experiment.data.channels)
    reference, reference_loss = _train(spec, plan, batches, clip, spec)
    found = []
    for switch in SWITCHES:
        turned = replace(spec, semantics_except=sorted({*spec.semantics_except} ^ {switch}))
        tensors, loss = _train(turned, plan, batches, clip, turned if switch == "initialization" else spec)
        distances = tuple(distance(reference[step], tensors[step]).value for step in AFTER)
        found.append(Ablation(switch, distances, loss - reference_loss))
    return sorted(found, key=lambda ablation: -ablation.distances[-1])


def _train(
    spec: ModelSpec, plan: NetworkPlan, batches: Sequence[Batch], clip: float | None, start: ModelSpec
) -> tuple[dict[int, dict[str, np.ndarray]], float]:
    """Tensors after each of AFTER steps, and the last loss; ``start`` names the semantics that draw the weights."""
    semantics = spec.resolved_semantics
    torch.manual_seed(0)
    initial = build_network(plan, start.resolved_semantics).state_dict()
    network = build_network(plan, semantics).double()
    network.load_state_dict(initial, strict=False)
    optimizer = build_optimizer(network, spec.optimizer, semantics)
    rates = spec.learning_rates(AFTER[-1])
    snapshots, loss = {}, torch.tensor(0.0)
    for step, (batch, rate) in enumerate(zip(batches, rates, strict=False), start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        set_mask_keys(network, torch.from_numpy(batch.mask_keys))
        logits = network(torch.from_numpy(batch.images).permute(0, 3, 1, 2))
        loss = F.cross_entropy(logits, torch.from_numpy(batch.labels), label_smoothing=spec.label_smoothing)
        loss.backward()
        if clip:
            clip_gradients(network.parameters(), clip, semantics.clip_epsilon)
        optimizer.step()
        if step in AFTER:
            snapshots[step] = network_tensors(network)
    return snapshots, loss.item()
