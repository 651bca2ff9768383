"""Two processes train and test like one: each image once, one run folder, one W&B run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command, only_run, run_here, run_in

from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.training.callbacks import gathered

# Without batch norm, whose statistics belong to a process, two processes compute what one does; also where an image's
# partner is in the other process.
FIT = """
    fit --data.source digits --data.image_size 8 --data.train_images 203 --data.batch_size 33
    --data.eval_batch_size 359 --model.network.conv_block 'conv - maxpool - dropout' --model.network.filters [8]
    --model.network.dense_block dense --model.network.units [8] --model.optimizer.learning_rate 0.01
    --trainer.max_epochs 2 --trainer.accelerator cpu --data.augmentation.rotation 0.05 --data.augmentation.mixup 0.4
    --data.augmentation.cutmix 1 --model.label_smoothing 0.1 --model.optimizer.ema 0.5 --model.early_stopping.patience 2
"""


@pytest.mark.slow
def test_two_processes_come_to_what_one_does(tmp_path: Path) -> None:
    """203 - 20 = 183 training images in batches of 33, the last of 18; 360 test images in batches of 359 and 1."""
    two = run_in(tmp_path)(f"{FIT} --trainer.devices 2 --trainer.strategy ddp")
    assert two.stdout.count("epoch   1/2") == 1
    assert "Warning" not in two.stderr, two.stderr
    (tmp_path / "alone").mkdir()
    run_here(tmp_path / "alone")(f"{FIT} --trainer.devices 1 --trainer.logger false")
    runs = [only_run(tmp_path), only_run(tmp_path / "alone")]
    assert len(list(runs[0].glob("wandb/offline-run-*"))) == 1
    histories = [RunFolder(run).read_history() for run in runs]
    for ours, theirs in zip(*histories, strict=True):
        assert ours["step"] == theirs["step"]
        for name in ("train_acc", "val_acc", "val_balanced_acc", "val_macro_f1"):
            assert ours[name] == theirs[name], name
        for name in ("train_loss", "val_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert (runs[0] / "val_classes.csv").read_bytes() == (runs[1] / "val_classes.csv").read_bytes()
    (labels, logits), (labels_alone, logits_alone) = (RunFolder(run).read_predictions() for run in runs)
    assert len(labels) == 360
    np.testing.assert_array_equal(labels, labels_alone)
    np.testing.assert_allclose(logits, logits_alone, rtol=1e-4, atol=1e-5)


def test_what_processes_have_of_a_batch_is_put_together_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 5 and 1 over 3 processes: the second has nothing of the last one."""
    labels = [torch.arange(5), torch.arange(5, 6)]
    shares = [[(batch[rank::3], batch[rank::3, None] * 1.0) for batch in labels] for rank in range(3)]

    def gather(found: list, mine: list) -> None:
        found[:] = shares

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    together, logits = gathered(shares[0])
    assert together.tolist() == logits[:, 0].tolist() == list(range(6))


def test_synchronized_batch_norm_is_refused_where_it_cannot_be(command: Command, tmp_path: Path) -> None:
    error = command(f"{FIT} --trainer.sync_batchnorm true", status=2).stderr
    assert "trainer.sync_batchnorm needs GPUs" in error
    assert list(tmp_path.iterdir()) == []
