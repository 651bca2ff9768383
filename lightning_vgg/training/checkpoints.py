"""How checkpoints are written and read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.runs.folder import atomic_write

LAST = "last.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are complete or absent, wherever a process is killed or a disk is full.

    Lightning's own go to the folder of temporary files first, and are copied from there if that is another disk.
    """

    def save_checkpoint(self, checkpoint: PlainDict, path: Any, storage_options: Any = None) -> None:
        contents = io.BytesIO()  # torch hides why a file could not be written
        torch.save(checkpoint, contents)
        with atomic_write(Path(path)) as file:
            file.write(contents.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> PlainDict:
        return super().load_checkpoint(path, map_location, weights_only=True)
