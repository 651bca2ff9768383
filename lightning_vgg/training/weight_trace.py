"""Keeping the trace of a training's weights, for twins."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.weight_trace import WeightTrace
from lightning_vgg.training.weights import network_tensors


class TraceWeights(Callback):
    """Keeps the trace of a run in its folder; its place in the callbacks is before those that save checkpoints."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.trace = WeightTrace()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step > len(self.trace.rows):  # and no gradients are being accumulated
            self.trace.add(self._tensors(pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trace.write(self.run, last=self._tensors(pl_module))

    def _tensors(self, module: LightningModule) -> dict[str, np.ndarray]:
        assert isinstance(module.network, nn.Module)
        return network_tensors(module.network)

    def state_dict(self) -> PlainDict:
        return {"rows": torch.from_numpy(np.array(self.trace.rows))}

    def load_state_dict(self, state_dict: PlainDict) -> None:
        self.trace.rows = list(state_dict["rows"].numpy())
