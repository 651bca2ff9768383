"""What a run saves after every epoch: its best weights, and all that is needed to continue."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_reference.averaging import averaged
from keras_reference.logs import measured
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.runs.best import Quantity, score
from lightning_vgg.runs.folder import RunFolder, atomic_write

BEST, LAST = "best.weights.h5", "last.npz"


class Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the first epoch with the best value (without validation images: of the last one), and the
    state after the last epoch.

    Both are there whole or not at all. The best come before the state: a run that is killed in between repeats the
    epoch and comes to the same.

    Args:
        run: the folder.
        whole: the whole network, also where a part of it is trained on kept features.
        optimizer: of that training.
        best_by: what makes an epoch the best one; None without validation images.
    """

    def __init__(
        self, run: RunFolder, whole: keras.Model, optimizer: keras.optimizers.Optimizer, best_by: Quantity | None
    ) -> None:
        super().__init__()
        self.run = run
        self.whole = whole
        self.optimizer = optimizer
        self.best_by = best_by
        self.best = -np.inf

    def resume(self) -> int:
        """Take over what LAST holds, bit for bit; returns the epochs that are done, 0 for a run without it.

        The state is the weights, batch norm's statistics, dropout's generators, the optimizer's moments and its count
        of steps; the draws and the learning rates follow from the epoch.

        Raises:
            ExperimentError: the file is damaged, or does not fit.
        """
        path = self.run.checkpoints / LAST
        if not path.exists():
            return 0
        self.run.sound(path)
        variables = self._variables()
        with np.load(path) as state:
            values = [state[name] for name in state.files if name.startswith("arr_")]
            if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
                raise ExperimentError(
                    f"{path} does not fit: it was written by another version of Keras or this project"
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            self.best = float(state["best"])
            return int(state["epoch"])

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        value = score(measured(logs)[self.best_by], self.best_by) if self.best_by else 0.0
        if not self.best_by or not epoch or value > self.best:
            self.best = value
            with averaged(self.optimizer):
                write_weights(self.whole, self.run.checkpoints / BEST)
        values = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        with atomic_write(self.run.checkpoints / LAST) as file:
            np.savez(file, *values, epoch=epoch + 1, best=self.best)

    def _variables(self) -> Sequence[keras.Variable]:
        """Weights and generators of all layers, and the optimizer's variables."""
        return [*self.whole.variables, *self.optimizer.variables]


def write_weights(model: keras.Model, path: Path) -> None:
    """A .weights.h5, there whole or not at all. HDF5 goes to the folder of temporary files first: it cannot write to an
    open file, and on a full disk it raises errors of several kinds.
    """
    with tempfile.TemporaryDirectory() as folder:
        complete = Path(folder) / path.name
        model.save_weights(complete)
        with atomic_write(path) as file:
            file.write(complete.read_bytes())
