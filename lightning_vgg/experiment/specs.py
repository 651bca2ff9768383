"""What an experiment is, in no framework's words: the dataclasses behind the YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_vgg.common.errors import DataError, ExperimentError
from lightning_vgg.experiment.nulls import refuse_null
from lightning_vgg.experiment.patience import EarlyStoppingSpec, PlateauSpec, Rows, plateau_factor
from lightning_vgg.experiment.schedule import ScheduleSpec as ScheduleSpec
from lightning_vgg.experiment.schedule import rate_factors
from lightning_vgg.experiment.semantics import Semantics, resolve_semantics
from lightning_vgg.runs.best import Quantity

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class NetworkSpec:
    """A VGG: convolutional blocks, then dense blocks, then the classifier (one logit per class).

    Args:
        conv_block: recipe of the convolutional blocks: one for all, or a list with one for each of ``filters``.
        filters: width of each convolutional block.
        dense_block: recipe of the dense blocks: one for all, or a list with one for each of ``units``.
        units: width of each dense block; none for a linear classifier.
        dropout: rate of every ``dropout`` and ``spatial dropout`` that is written without one.
        classifier: recipe of the last layer, a ``dense(linear)``; one logit per class is its width.
    """

    conv_block: str | list[str] = "conv - batch norm - conv - maxpool - dropout"
    filters: list[int] = field(default_factory=lambda: [32, 64, 128])
    dense_block: str | list[str] = "dense - dropout"
    units: list[int] = field(default_factory=lambda: [128])
    dropout: float = 0.25
    classifier: str = "dense(linear)"

    def __post_init__(self) -> None:
        refuse_null(self, "network")
        if not 0 <= self.dropout < 1:
            raise ExperimentError(f"network.dropout lies in [0, 1), not {self.dropout}")


@dataclass(frozen=True)
class OptimizerSpec:
    """The optimizer.

    Args:
        name: sgd, adam or adamw.
        learning_rate: the schedule's highest rate.
        momentum: of sgd.
        nesterov: of sgd.
        beta1: of adam and adamw: decay of the mean of gradients.
        beta2: of adam and adamw: decay of the mean of squared gradients.
        epsilon: of adam and adamw; null for the default of the semantics.
        weight_decay: null for the default of the semantics.
        decay_all: whether weight decay also shrinks biases and batch norm, as in both frameworks.
        ema: momentum of an exponential moving average of the weights, such as 0.99, which is validated and tested in
            their place; batch norm's statistics are not averaged. null for none.
    """

    name: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float | None = None
    weight_decay: float | None = None
    decay_all: bool = True
    ema: float | None = None

    def __post_init__(self) -> None:
        refuse_null(self, "optimizer")
        if not 0 < self.learning_rate < math.inf:
            raise ExperimentError(f"optimizer.learning_rate must be above 0, not {self.learning_rate}")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ExperimentError(f"optimizer.{name} lies in [0, 1), not {getattr(self, name)}")
        for name in ("epsilon", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ExperimentError(f"optimizer.{name} must be at least 0, not {value}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ExperimentError(f"optimizer.ema lies in (0, 1), not {self.ema}")
        if self.nesterov and self.momentum == 0:
            raise ExperimentError("optimizer.nesterov needs optimizer.momentum above 0")


@dataclass(frozen=True)
class BackboneSpec:
    """Pretrained convolutions below the network.

    Args:
        weights: IMAGENET1K_V1 or, of vgg16, IMAGENET1K_FEATURES (torchvision's), a file with torchvision's names
            (.safetensors, .pth) or Keras's (.h5), none for random ones; or a run folder of this project.
        preprocessing: what the weights expect: torchvision, torchvision_features, keras_caffe, or cifar (mean
            0 and deviation 1 over the training images). Required for a file; named weights and runs bring their own.
        layer: the last layer, by Keras's name: block1_conv1 ... block5_pool, or fc1, fc2, which need 224 pixels.
        pooling: what the head gets of the last layer: all pixels (flatten), or each channel's average or maximum.
        image_size: pixels a side to which the device resizes images (bilinear, no antialiasing); null for as stored.
        freeze_until: the last layer that does not train, such as block3_pool; all; none or null.
        unfreeze: number of finished epochs -> freeze_until from then on, such as {2: block4_pool, 4: none}.
        rate_factor: learning rate of the top block, as a share of the head's.
        layer_decay: factor by which the rate falls with each block further down.
        network: which VGG the weights are of; _bn are torchvision's with batch norm. A run brings its own.
    """

    weights: str = "IMAGENET1K_FEATURES"
    preprocessing: Literal["torchvision", "torchvision_features", "keras_caffe", "cifar"] | None = None
    layer: str = "block5_pool"
    pooling: Literal["flatten", "average", "max"] = "flatten"
    image_size: int | None = None
    freeze_until: str | None = "all"
    unfreeze: dict[int, str | None] = field(default_factory=dict)
    rate_factor: float = 1.0
    layer_decay: float = 1.0
    network: Literal["vgg16", "vgg19", "vgg16_bn", "vgg19_bn"] = "vgg16"

    def __post_init__(self) -> None:
        refuse_null(self, "backbone")


@dataclass(frozen=True)
class TricksSpec:
    """What the fastest known training of CIFAR-10 adds (airbench94, https://arxiv.org/abs/2404.00498).

    Args:
        whitening: the kernels of the first convolution decorrelate the pixels of a patch, and do not train.
        whitening_bias_epochs: epochs in which the bias of that convolution trains.
        identity_initialization: the first kernels of every convolution pass their inputs on unchanged.
        logit_scale: factor on the classifier's outputs.
        batch_norm_bias_factor: learning rate of batch norm's biases, as a multiple of the others'; rate times decay
            stays the same.
        muon_rate: learning rate of the convolutions' kernels if Muon trains them and sgd the rest: they keep their
            norm and move by the orthogonalized momentum (0.6), without decay; null for no Muon.
        lookahead: every five steps the weights return to a slow average of themselves, closer and closer to it, and
            they end on it.
        test_time_augmentation: also test on the mean logits of each image and its mirror image, and of the same
            shifted by a pixel.
    """

    whitening: bool = False
    whitening_bias_epochs: int = 3
    identity_initialization: bool = False
    logit_scale: float = 1.0
    batch_norm_bias_factor: float = 1.0
    muon_rate: float | None = None
    lookahead: bool = False
    test_time_augmentation: Literal["none", "mirror", "mirror_and_shift"] = "none"

    def __post_init__(self) -> None:
        refuse_null(self, "tricks")
        for name in ("logit_scale", "batch_norm_bias_factor", "muon_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ExperimentError(f"tricks.{name} must be above 0, not {value}")


@dataclass(frozen=True)
class ModelSpec:
    """The network and how it learns.

    Args:
        network: the blocks.
        backbone: pretrained convolutions below them, for transfer learning; null for none.
        optimizer: the optimizer.
        schedule: the learning rate over the steps.
        semantics: whose defaults the Lightning side follows where the frameworks differ.
        semantics_except: switches that follow the other framework, by name (``batch_norm_epsilon``, ...); the Keras
            side knows ``initialization`` alone.
        label_smoothing: share of the target spread evenly over all classes.
        early_stopping: ends a training that gets no better; null for max_epochs in any case.
        reduce_on_plateau: lowers the learning rate of a training that gets no better; null for the schedule alone.
        best_by: what the best epoch has, whose checkpoint is tested: the highest val_acc, val_balanced_acc (mean recall
            of the classes) or val_macro_f1 (mean F1 of the classes), or the lowest val_loss.
        tricks: of the fastest training; all off by default.
        init_from: a .safetensors file to start from instead of random weights.
        channels_last: keep images in channels-last memory format, which makes convolutions faster.
        compile: compile the network with torch.compile.
        other_kernels: add up in another order, by which results differ by rounding alone: the control of a comparison.
    """

    network: NetworkSpec = field(default_factory=NetworkSpec)
    backbone: BackboneSpec | None = None
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    semantics: Literal["keras", "torch"] = "keras"
    semantics_except: list[str] = field(default_factory=list)
    label_smoothing: float = 0.0
    early_stopping: EarlyStoppingSpec | None = None
    reduce_on_plateau: PlateauSpec | None = None
    best_by: Quantity = "val_acc"
    tricks: TricksSpec = field(default_factory=TricksSpec)
    init_from: str | None = None
    channels_last: bool = True
    compile: bool = False
    other_kernels: bool = False

    def __post_init__(self) -> None:
        refuse_null(self, "model")
        if not 0 <= self.label_smoothing < 1:
            raise ExperimentError(f"model.label_smoothing lies in [0, 1), not {self.label_smoothing}")
        if self.tricks.muon_rate is not None and self.optimizer.name != "sgd":
            raise ExperimentError(f"tricks.muon_rate needs optimizer.name sgd, not {self.optimizer.name}")
        if self.optimizer.ema is not None and self.tricks.lookahead:
            raise ExperimentError("optimizer.ema and tricks.lookahead are both averages of the weights: choose one")
        self._check_plateau()
        self.resolved_semantics  # noqa: B018 - an unknown switch is refused here

    def _check_plateau(self) -> None:
        if self.reduce_on_plateau is None:
            return
        if self.schedule.name != "constant":
            raise ExperimentError(
                f"model.reduce_on_plateau needs schedule.name constant, not {self.schedule.name}: only one of them can "
                "lower the learning rate"
            )
        if self.reduce_on_plateau.min_rate > self.optimizer.learning_rate:
            raise ExperimentError(
                f"reduce_on_plateau.min_rate ({self.reduce_on_plateau.min_rate}) must not be above "
                f"optimizer.learning_rate ({self.optimizer.learning_rate})"
            )

    @property
    def needs_validation(self) -> str | None:
        """A setting that asks for validation images; None for none."""
        settings = {
            f"model.best_by: {self.best_by}": self.best_by != "val_acc",
            "model.early_stopping": self.early_stopping is not None,
            "model.reduce_on_plateau": self.reduce_on_plateau is not None,
        }
        return next((setting for setting, used in settings.items() if used), None)

    @property
    def needs_one_process(self) -> str | None:
        """A setting that several processes together cannot train, and why; None for none."""
        if self.tricks.whitening:
            return "model.tricks.whitening needs trainer.devices 1: other processes would not freeze its bias"
        if self.backbone is not None and self.backbone.unfreeze:
            return (
                "model.backbone.unfreeze needs trainer.devices 1: the gradients of layers that are unfrozen later "
                "would not be shared between the processes"
            )
        return None

    @cached_property
    def resolved_semantics(self) -> Semantics:
        """One value for each difference between the frameworks."""
        return resolve_semantics(self.semantics, self.semantics_except)

    def rate_factors(self, steps: int) -> np.ndarray:
        """Of each step of a training of ``steps``: its learning rate as a share of the highest, float64 (steps,)."""
        return rate_factors(self.schedule, steps)

    def learning_rates(self, steps: int) -> np.ndarray:
        """Of each step of a training of ``steps``, float64 (steps,): the one table that both frameworks follow."""
        return self.optimizer.learning_rate * self.rate_factors(steps)

    def plateau_factor(self, history: Rows, semantics: Semantics | None = None) -> float:
        """By what the table's rates are multiplied after the epochs of a history.

        Args:
            history: rows of history.csv.
            semantics: whose rule; None for that of the spec.
        """
        semantics = semantics or self.resolved_semantics
        return plateau_factor(self.reduce_on_plateau, semantics, self.optimizer.learning_rate, history)


@dataclass(frozen=True)
class AugmentationSpec:
    """Random changes of the training images, drawn for each image in each epoch.

    Args:
        flip: mirror left and right with probability 1/2; alternating: each image in every other epoch.
        shift: shift by up to this many pixels along each axis, filled by reflection; a random crop with padding.
        cutout: side of a square that is set to the mean colour, in pixels; 0 for none.
        vertical_flip: mirror top and bottom with probability 1/2.
        rotation: turn by up to this fraction of a full turn, either way; 0.05 is 18 degrees.
        zoom: shrink or enlarge by up to this share; 0.2 shows 80 to 120 % of the image's side.
        contrast: multiply the differences from each channel's mean by 1 minus to 1 plus this.
        brightness: add up to this share of 255, or subtract it.
        erasing: probability that a rectangle of 2 to 33 % of the area is set to the mean colour.
        mixup: blend each image with another of its batch, and the labels likewise, by a share from Beta(mixup, mixup);
            0 for none.
        cutmix: paste a square of another image of the batch, of an area from Beta(cutmix, cutmix), and mix the labels
            by the area; 0 for none. With mixup, each image is mixed by one of the two, at even chance.
        resized_crop: cut a rectangle out and resize it to the image's size; this is the least share of the area that is
            left, such as 0.3, and the aspect ratio lies in 3/4 to 4/3; 0 or 1 for none.
    """

    flip: bool | Literal["alternating"] = False
    shift: int = 0
    cutout: int = 0
    vertical_flip: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    resized_crop: float = 0.0

    def __post_init__(self) -> None:
        refuse_null(self, "augmentation")
        if self.shift < 0 or self.cutout < 0:
            raise ExperimentError("augmentation.shift and augmentation.cutout are counts of pixels, at least 0")
        if not 0 <= self.rotation <= 0.5:
            raise ExperimentError(
                f"augmentation.rotation is a fraction of a full turn in [0, 0.5], not {self.rotation}; "
                "for degrees, divide by 360"
            )
        if not 0 <= self.zoom < 1:
            raise ExperimentError(f"augmentation.zoom lies in [0, 1), not {self.zoom}")
        for name in ("contrast", "brightness", "erasing", "resized_crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ExperimentError(f"augmentation.{name} lies in [0, 1], not {getattr(self, name)}")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ExperimentError(
                    f"augmentation.{name} is the alpha of Beta(alpha, alpha), at least 0, not {getattr(self, name)}"
                )

    @property
    def crops(self) -> bool:
        """Whether images are cropped and resized."""
        return 0 < self.resized_crop < 1

    @property
    def mixes(self) -> bool:
        """Whether images have shares of two labels."""
        return self.mixup > 0 or self.cutmix > 0


LIVELY = AugmentationSpec(
    flip=True,
    shift=4,
    cutout=8,
    vertical_flip=True,
    rotation=0.1,
    zoom=0.3,
    contrast=0.5,
    brightness=0.3,
    erasing=0.5,
    mixup=0.4,
    cutmix=1.0,
    resized_crop=0.3,
)
"""All that there is, at once: for what must hold with any of it."""


@dataclass(frozen=True)
class DataSpec:
    """The images.

    Args:
        source: cifar10 or cifar100 (downloaded once), cifar100_coarse (its 20 classes), digits (1,797 scanned digits
            that scikit-learn brings), or folder: ``train/<class>/*`` and ``test/<class>/*`` under root, perhaps
            ``val/<class>/*``, or ``<class>/*`` alone.
        root: cifar10, cifar100: a folder, the official .tar.gz, or a mirror's URL; folder: the folder, a .zip or .tar
            (.gz, .xz) of it, or a .csv with the columns path, label, and perhaps split.
        image_size: pixels a side in memory; images of another size are resized once, when they are read.
        train_images: use only this many of the training images, all classes alike.
        validation_fraction: share of the training images held out to choose the best epoch; a folder's own val/ is
            used instead, where there is one.
        split_seed: another seed holds out other images.
        batch_size: images per training step, on all devices together.
        eval_batch_size: images per validation or test step, on all devices together.
        augmentation: random changes of the training images.
        cache_dir: where downloads and decoded images are kept; null for the user's cache folder.
        on_bad_image: of folder: error stops before training where an image cannot be decoded; skip leaves it out.
        mean: red, green and blue of 0..255 that become 0; null for the mean of the training images.
        std: differences of red, green and blue that become 1; null for the deviations of the training images.
        grayscale: keep one channel, the brightness, instead of red, green and blue.
        test_fraction: share of the images of a folder that become the test, by their names, where there is no test/.
        resize: of other sizes and shapes: squash stretches both sides, crop cuts the middle out, pad fills with black.
        antialias: average all pixels that a smaller one covers, when images are shrunk; false as in Keras's
            ``image_dataset_from_directory``.
        memory: of folder: images of up to this many GB are held in memory; more stay in a file of the cache, and each
            batch is read from it. null for half of the memory that is free.
        class_weight: factors on the training loss of an image by its class: {class name or number: weight}, 1 for
            classes left out; or balanced, the rarer the higher; null for none. Losses in the history are without.
    """

    source: Literal["cifar10", "cifar100", "cifar100_coarse", "digits", "folder"] = "cifar10"
    root: str | None = None
    image_size: int = 32
    train_images: int | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    batch_size: int = 128
    eval_batch_size: int = 500
    augmentation: AugmentationSpec = field(default_factory=AugmentationSpec)
    cache_dir: str | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    mean: list[float] | None = None
    std: list[float] | None = None
    grayscale: bool = False
    test_fraction: float = 0.1
    resize: Literal["squash", "crop", "pad"] = "squash"
    antialias: bool = True
    memory: float | None = None
    class_weight: Literal["balanced"] | dict[str | int, float] | None = None

    def __post_init__(self) -> None:
        refuse_null(self, "data")
        if (self.mean is None) != (self.std is None):
            raise ExperimentError("data.mean and data.std belong together: set both, or neither")
        if any(len(values) != self.channels for values in (self.mean, self.std) if values is not None):
            raise ExperimentError(
                "data.mean and data.std have three numbers: red, green and blue; or one with data.grayscale"
            )
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            raise ExperimentError(f"data.std must be above 0, not {self.std}")
        weights = self.class_weight.items() if isinstance(self.class_weight, dict) else ()
        if wrong := [f"{name}: {weight}" for name, weight in weights if not 0 < weight < math.inf]:
            raise ExperimentError(f"data.class_weight must be above 0, not {', '.join(wrong)}")
        if min(self.image_size, self.batch_size, self.eval_batch_size) < 1:
            raise ExperimentError("data.image_size, data.batch_size and data.eval_batch_size must be at least 1")
        if not 0 <= self.validation_fraction < 1:
            raise ExperimentError(f"data.validation_fraction lies in [0, 1), not {self.validation_fraction}")
        if not 0 < self.test_fraction < 1:
            raise ExperimentError(f"data.test_fraction lies in (0, 1), not {self.test_fraction}")
        if self.memory is not None and not self.memory >= 0:
            raise ExperimentError(f"data.memory is a number of GB, at least 0, not {self.memory}")
        if self.augmentation.shift >= self.image_size:
            raise ExperimentError(
                f"data.augmentation.shift ({self.augmentation.shift}) must be below data.image_size ({self.image_size})"
            )

    def require_root(self) -> None:
        """Refuse a folder of images that is not there, before weights are downloaded for it.

        Raises:
            DataError: source is folder, and root is not set or leads nowhere.
        """
        if self.source != "folder":
            return
        if self.root is None:
            raise DataError(
                "data.source: folder needs data.root: a folder with a folder of images for each class, an archive of "
                "it, or a .csv"
            )
        path = Path(self.root).expanduser()
        if not path.is_dir() and not path.is_file():
            raise DataError(f"data.root: there is no folder or archive {self.root}")

    @property
    def channels(self) -> int:
        return 1 if self.grayscale else 3

    def batches_per_epoch(self, images: int) -> int:
        """Of ``images`` training images; the last batch may be smaller."""
        return -(-images // self.batch_size)


LoggerName = Literal["wandb", "tensorboard", "csv"]


@dataclass(frozen=True)
class TrainerSpec:
    """The settings of ``lightning.pytorch.Trainer`` that mean the same in every framework.

    Args:
        max_epochs: epochs to train.
        precision: 32-true, 64-true or bf16-mixed.
        gradient_clip_val: largest global norm of the gradients; null for no clipping.
        accumulate_grad_batches: batches whose gradients make one step of the optimizer, as their mean. The last step of
            an epoch has those that are left, their sum divided by the same number.
        default_root_dir: folder in which runs/ is made; null for the working folder.
        logger: wandb, tensorboard, csv, or a list of these; null or true for wandb, false for none.
        enable_progress_bar: null for a bar on a terminal and a line per epoch elsewhere.
    """

    max_epochs: int = 10
    precision: str = "32-true"
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = 1
    default_root_dir: str | None = None
    logger: bool | LoggerName | list[LoggerName] | None = None
    enable_progress_bar: bool | None = None

    def __post_init__(self) -> None:
        refuse_null(self, "trainer")
        if self.accumulate_grad_batches < 1:
            raise ExperimentError(
                f"trainer.accumulate_grad_batches must be at least 1, not {self.accumulate_grad_batches}"
            )

    def steps_per_epoch(self, batches: int) -> int:
        """Steps of the optimizer in an epoch of so many batches."""
        return -(-batches // self.accumulate_grad_batches)

    @property
    def loggers(self) -> list[LoggerName]:
        """Where the curves go, by name."""
        if isinstance(self.logger, bool | None):
            return [] if self.logger is False else ["wandb"]
        return [self.logger] if isinstance(self.logger, str) else list(dict.fromkeys(self.logger))


@dataclass(frozen=True)
class ExperimentSpec:
    """A whole experiment: what YAML files and flags come down to, and what everything here is given.

    Args:
        experiment: runs go to runs/<experiment>/<name>.
        name: of the run; null for the time and the seed.
        seed_everything: seed of weights, order and augmentation.
        model: the network and how it learns.
        data: the images.
        trainer: the part of Lightning's trainer that every framework reads.
        report: whether fit and test end with a report of the run, in its folder.
    """

    experiment: str = "vgg"
    name: str | None = None
    seed_everything: int = 0
    model: ModelSpec = field(default_factory=ModelSpec)
    data: DataSpec = field(default_factory=DataSpec)
    trainer: TrainerSpec = field(default_factory=TrainerSpec)
    report: bool = False

    def __post_init__(self) -> None:
        needing = self.model.needs_validation
        if needing and self.data.validation_fraction == 0:
            raise ExperimentError(f"{needing} needs validation images: set data.validation_fraction above 0")

    @property
    def root(self) -> Path:
        """The folder that holds runs/."""
        return Path(self.trainer.default_root_dir or ".").expanduser()

    @property
    def image_size(self) -> int:
        """Pixels a side of the images in memory; a backbone may have them resized."""
        return self.data.image_size


MOVED = {
    "model.whitening": "model.tricks.whitening",
    "model.whitening_bias_epochs": "model.tricks.whitening_bias_epochs",
    "model.identity_initialization": "model.tricks.identity_initialization",
    "model.logit_scale": "model.tricks.logit_scale",
    "model.test_time_augmentation": "model.tricks.test_time_augmentation",
    "model.optimizer.batch_norm_bias_factor": "model.tricks.batch_norm_bias_factor",
    "model.optimizer.muon_rate": "model.tricks.muon_rate",
    "model.optimizer.lookahead": "model.tricks.lookahead",
}
"""Keys of earlier run folders -> where they are now."""
