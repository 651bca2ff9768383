"""The VGG as a LightningModule."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.backbone_plan import plan_model
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.scores import macro_scores
from lightning_vgg.training.augmented_test import augmented_logits
from lightning_vgg.training.averaging import AveragedWeights
from lightning_vgg.training.blocks import build_network, pass_inputs_on
from lightning_vgg.training.dropout import set_mask_keys
from lightning_vgg.training.features import UseFeatures
from lightning_vgg.training.kernels import reordered
from lightning_vgg.training.lookahead import Lookahead
from lightning_vgg.training.loss import TrainingLoss
from lightning_vgg.training.optim import build_optimizer, clip_gradients
from lightning_vgg.training.penalty import l2_penalty, penalized_layers
from lightning_vgg.training.pretrained import load_pretrained
from lightning_vgg.training.scores import Scores
from lightning_vgg.training.transfer import Backbone, Freezing, on_backbone, parameter_groups
from lightning_vgg.training.weights import load_network
from lightning_vgg.training.whitening import Whitening, first_convolution
from lightning_vgg.weights.pretrained import Pretrained


class VGGClassifier(LightningModule):
    """Trains and evaluates the network of an ExperimentSpec on images (B, 3, S, S) with integer labels (B,).

    Logs what MEASURED names once an epoch, and in the test what TESTED names. Losses are cross-entropies, without L2
    regularization, which Keras adds to the loss that it shows. Of mixed images, train_acc counts the label with the
    larger share.

    Args:
        experiment: the network, how it learns, and the images' size S.
        num_classes: logits.
        pretrained: the spec's backbone; None loads it.
        class_weights: on the training loss, float64 (classes,); None for none.

    Attributes:
        plateau_factor: what the rates of the schedule are multiplied by in this epoch.
        confusion: of the last validation or test, int64 (num_classes, num_classes); see `scores.confusion`.

    Raises:
        ExperimentError: the network cannot be built, or its weights cannot be loaded.
    """

    def __init__(
        self,
        experiment: ExperimentSpec,
        num_classes: int,
        pretrained: Pretrained | None = None,
        class_weights: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec = experiment.model
        if spec.compile and spec.other_kernels:
            raise ExperimentError("model.other_kernels and model.compile exclude each other: turn one of them off")
        image_size = experiment.image_size
        if spec.backbone is not None and pretrained is None:
            pretrained = load_pretrained(spec.backbone, image_size, spec.resolved_semantics)
        self.pretrained = pretrained
        self.plan = plan_model(experiment, num_classes, pretrained.plan if pretrained else None)
        self.network: nn.Module = build_network(self.plan, spec.resolved_semantics)
        if spec.tricks.identity_initialization:
            pass_inputs_on(self.network)
        if pretrained is not None:
            self.network = on_backbone(Backbone(pretrained), self.network)
        if spec.tricks.whitening:
            first_convolution(self.network).weight.requires_grad_(False)
        if spec.init_from is not None:
            load_network(self.network, Path(spec.init_from).expanduser())
        self.penalized = penalized_layers(self.network)
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        self.loss = TrainingLoss(spec.resolved_semantics, spec.label_smoothing, weights)
        if spec.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        if spec.compile:
            self.network.compile()
        parts = ["train", "val", "test"] + (["augmented_test"] if spec.tricks.test_time_augmentation != "none" else [])
        self.scores = nn.ModuleDict({f"{part}_scores": Scores(num_classes) for part in parts})
        self.test_outputs: list[tuple[Tensor, Tensor]] = []
        self.plateau_factor = 1.0
        self.confusion: np.ndarray | None = None

    @property
    def backbone(self) -> Backbone | None:
        """The lowest part of the network, where it was made of a BackboneSpec."""
        return self.network.get_submodule("backbone") if self.pretrained else None  # type: ignore[return-value]

    def configure_callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = [Freezing(), UseFeatures()] if self.pretrained else []
        tricks = self.spec.tricks
        if tricks.whitening:
            callbacks.append(Whitening(tricks.whitening_bias_epochs))
        if self.spec.optimizer.ema is not None:
            callbacks.append(AveragedWeights(self.spec.optimizer.ema))
        return [*callbacks, Lookahead()] if tricks.lookahead else callbacks

    def setup(self, stage: str) -> None:
        # Lightning 2.6 converts a module only after it has loaded a checkpoint, whose float64 weights would be rounded.
        self.trainer.precision_plugin.convert_module(self)
        if self.trainer.strategy.root_device.type == "mps":  # Apple's GPUs have no float64
            for scores in self.scores.values():
                assert isinstance(scores, Scores)
                scores.sum_losses_in(torch.float32)
            self.loss.float()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        if not self.spec.channels_last:
            images = images.contiguous()
        with reordered() if self.spec.other_kernels else nullcontext():
            logits = self.network(images)
        scale = self.spec.tricks.logit_scale
        return logits if scale == 1 else logits * scale

    def on_fit_start(self) -> None:
        if self.spec.init_from is not None and self.dtype == torch.float64 and self.trainer.ckpt_path is None:
            load_network(
                self.network, Path(self.spec.init_from).expanduser()
            )  # once more, for the digits that float32 cut off

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets, mask_keys = batch  # labels, or of mixed images each class's share
        set_mask_keys(self.network, mask_keys)
        logits = self(images)
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        if self.trainer.world_size == 1:
            loss = self.loss(logits, targets)
            plain = loss.detach() if self.loss.class_weights is None else self.loss.unweighted(logits.detach(), labels)
            self._scores("train").update(logits.detach(), labels, plain)
            return loss + l2_penalty(self.penalized)
        self._scores("train").update(logits.detach(), labels, self.loss.unweighted(logits.detach(), targets))
        # DDP takes the mean of the processes' gradients, whose shares of the batch may differ by an image.
        loss, divisor = self.loss.sum_and_divisor(logits, targets)
        torch.distributed.all_reduce(divisor)  # the strategy's own has a barrier, at which the host waits for its GPU
        return loss * self.trainer.world_size / divisor + l2_penalty(self.penalized)

    def on_save_checkpoint(self, checkpoint: PlainDict) -> None:
        """What an epoch has measured so far goes in, too."""
        checkpoint["train_sums"] = self._scores("train").sums()

    def on_load_checkpoint(self, checkpoint: PlainDict) -> None:
        if self.global_rank == 0:  # the sums are those of all processes
            self._scores("train").restore(checkpoint["train_sums"])

    def on_train_epoch_end(self) -> None:
        self._log_scores("train")
        rate = self.rates[self.global_step - 1] * self.plateau_factor
        self.log("learning_rate", torch.tensor(rate, dtype=self._scores("train").loss_sum.dtype), sync_dist=True)

    def on_validation_start(self) -> None:
        """Batch norm's statistics differ between processes; a checkpoint will hold those of the first."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        self.test_outputs = []

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self._evaluate("test", batch)
        self.test_outputs.append((batch[1], logits.float()))
        if self.spec.tricks.test_time_augmentation != "none":
            augmented = augmented_logits(self, batch[0], logits, self.spec.tricks.test_time_augmentation)
            self._scores("augmented_test").update(augmented, batch[1], F.cross_entropy(augmented, batch[1]))

    def on_test_epoch_end(self) -> None:
        sizes = [len(labels) for labels, _ in self.test_outputs]
        together = [torch.cat(parts).cpu() for parts in zip(*self.test_outputs, strict=True)]
        labels, logits = (torch.split(part, sizes) for part in together)
        self.test_outputs = list(zip(labels, logits, strict=True))
        self._log_scores("test")
        if self.spec.tricks.test_time_augmentation != "none":
            self._log_scores("augmented_test")

    def _evaluate(self, part: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self(images)
        self._scores(part).update(logits, labels, F.cross_entropy(logits, labels))
        return logits

    def _scores(self, part: str) -> Scores:
        scores = self.scores[f"{part}_scores"]
        assert isinstance(scores, Scores)
        return scores

    def _log_scores(self, part: str) -> None:
        scores = self._scores(part)
        loss, accuracy, matrix = scores.compute()
        # They are those of all processes already; sync_dist only says that this is known.
        self.log_dict({f"{part}_loss": loss, f"{part}_acc": accuracy}, prog_bar=True, sync_dist=True)
        if part in ("val", "test"):
            self.confusion = matrix.cpu().numpy()
            over_classes = {
                f"{part}_{name}": loss.new_tensor(value) for name, value in macro_scores(self.confusion).items()
            }
            self.log_dict(over_classes, sync_dist=True)
        scores.reset()

    def configure_optimizers(self) -> Any:
        spec = self.spec
        groups = parameter_groups(self.network, self.pretrained.plan) if self.pretrained else None
        optimizer = build_optimizer(self.network, spec.optimizer, spec.resolved_semantics, groups, spec.tricks)
        steps = int(self.trainer.estimated_stepping_batches)
        self.rates: list[float] = spec.learning_rates(steps).tolist()
        # A numpy number in a checkpoint could not be read back safely.
        factors: list[float] = spec.rate_factors(steps).tolist()
        # The scheduler asks for one rate more than there are steps.
        scheduler = LambdaLR(optimizer, lambda step: factors[min(step, len(factors) - 1)] * self.plateau_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val:
            clip_gradients(self.network.parameters(), gradient_clip_val, self.spec.resolved_semantics.clip_epsilon)
