"""What single changes of a training step bring: dropout's masks, and ReLUs that work in place.

    python benchmarks/step.py

The lesson's network (32/64/128, dense 256, batch 128) in this process on random images; the arms take turns.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch
from common import RATIO_COLUMNS, publish, ratios_to_bare_loop, take_turns, training_step
from torch import nn

from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.semantics import TORCH
from lightning_vgg.experiment.specs import NetworkSpec
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.dropout import Dropout

BATCH = 128
# "bare loop" is the network as torch's own layers make it.
ARMS = {"bare loop": (False, False), "dropout": (True, False), "in place": (False, True), "both": (True, True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    networks = {arm: build(*changes) for arm, changes in ARMS.items()}
    figures, rows = {}, []
    for precision in ("32-true", "bf16-mixed"):
        measured = {arm: partial(train, network, precision, options.steps) for arm, network in networks.items()}
        for warm_up in measured.values():
            warm_up()
        of_precision, table = ratios_to_bare_loop(precision, take_turns(precision, measured, options.turns))
        figures |= of_precision
        rows += table
    settings = {"steps": options.steps, "turns": options.turns, "threads": torch.get_num_threads()}
    publish("step", "Changes of a training step", RATIO_COLUMNS, rows, {**settings, "arms": figures})


def build(fast_dropout: bool, in_place: bool) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(plan_network(NetworkSpec(filters=[32, 64, 128], units=[256]), 32, 10), TORCH)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = in_place
        if isinstance(module, Dropout) and not fast_dropout:
            module.__class__ = nn.Dropout
    return network.to(memory_format=torch.channels_last)


def train(network: nn.Module, precision: str, steps: int) -> float:
    """Images per second."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))
    start = time.perf_counter()
    for _ in range(steps):
        training_step(network, optimizer, images, labels, precision)
    return steps * BATCH / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
