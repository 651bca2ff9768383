"""DataSpec -> the training, validation and test images, as both frameworks see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.class_weights import class_weights
from lightning_vgg.images.sources import load_images, split_validation, stratified_subset
from lightning_vgg.images.stored import Images, choose, in_grey
from lightning_vgg.runs.folder import RunFolder


class Split(NamedTuple):
    """uint8 images (N, S, S, C), of three channels or one, in memory or in a file, and int64 labels (N,)."""

    images: Images
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """All images of an experiment.

    Attributes:
        train, val, test: the splits; val is empty if the validation fraction is 0.
        class_names: in the order of the labels.
        fingerprint: of all images of the source, their labels and class names.
        normalization: of the pixels, from the training images or as pretrained weights expect it.
        left_out: images that could not be decoded, each with the reason.
        remarks: what else is to be known of the files.
        class_weights: float64 (classes,), on the training loss; None for none.
    """

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str
    normalization: Normalization
    left_out: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    class_weights: np.ndarray | None = None

    @property
    def parts(self) -> dict[str, Split]:
        """``train``, ``val`` and ``test``."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def images_per_class(self) -> dict[str, dict[str, int]]:
        """Part -> class name -> images."""
        return {
            name: dict(
                zip(self.class_names, np.bincount(part.labels, minlength=len(self.class_names)).tolist(), strict=True)
            )
            for name, part in self.parts.items()
        }

    def describe(self) -> PlainDict:
        """The entries of run.json about the images."""
        return {
            "data_fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
            "normalization": {"mean": self.normalization.mean, "std": self.normalization.std},
            **({"class_weights": self.class_weights.tolist()} if self.class_weights is not None else {}),
            **({"images_left_out": list(self.left_out)} if self.left_out else {}),
            **({"images_remarks": list(self.remarks)} if self.remarks else {}),
            "images": {name: len(part.labels) for name, part in self.parts.items()},
            "images_per_class": self.images_per_class,
        }


def load_dataset(spec: DataSpec, normalization: Normalization | None = None) -> Dataset:
    """Load the images and hold out the validation images.

    Args:
        spec: the images.
        normalization: that of pretrained weights; None for that of the spec, or else mean 0 and deviation 1 over the
            training images.

    Raises:
        DataError: the images cannot be loaded, or there are too few.
        ExperimentError: pretrained weights and the spec both have a normalization; a class weight is of no class.
    """
    if spec.mean is not None and spec.std is not None:
        if normalization is not None:
            raise ExperimentError(
                "data.mean and data.std do not go with model.backbone, whose weights have their own preprocessing"
            )
        normalization = Normalization(tuple(spec.mean), tuple(spec.std))
    if spec.class_weight is not None and spec.augmentation.mixes:
        raise ExperimentError("data.class_weight needs images of one class each: leave out mixup and cutmix")
    images = load_images(spec)
    if spec.grayscale:
        grey = [in_grey(part) for part in (images.train_images, images.val_images, images.test_images)]
        images = replace(images, train_images=grey[0], val_images=grey[1], test_images=grey[2])
    chosen = np.arange(len(images.train_labels))
    if spec.train_images is not None:
        chosen = stratified_subset(images.train_labels, spec.train_images)
    own = len(images.val_labels) > 0
    fraction = 0.0 if own else spec.validation_fraction
    train, val = (
        Split(choose(images.train_images, indices), images.train_labels[indices])
        for indices in (
            chosen[part] for part in split_validation(images.train_labels[chosen], fraction, spec.split_seed)
        )
    )
    if own:
        val = Split(images.val_images, images.val_labels)
    return Dataset(
        train=train,
        val=val,
        test=Split(images.test_images, images.test_labels),
        class_names=images.class_names,
        fingerprint=images.fingerprint,
        normalization=normalization or Normalization.of(train.images),
        left_out=images.left_out,
        remarks=images.remarks,
        class_weights=class_weights(spec.class_weight, train.labels, images.class_names),
    )


def recorded_normalization(run: RunFolder) -> Normalization:
    """Of the pixels that a run was trained on."""
    record = run.read_record()["normalization"]
    return Normalization(tuple(record["mean"]), tuple(record["std"]))


def refuse_other_images(dataset: Dataset, run: RunFolder, resuming: bool) -> None:
    """Refuse images that do not fit a run. A run that was stopped before it wrote its run.json accepts any.

    Args:
        dataset: the images of this command.
        run: the trained run.
        resuming: whether training continues, which needs the same images; an evaluation needs the same classes.

    Raises:
        ExperimentError: they do not fit.
    """
    record = run.read_record()
    if not record:
        return
    if resuming and record["data_fingerprint"] != dataset.fingerprint:
        raise ExperimentError(
            f"the images are not those that {run.path} was started with (the fingerprint in run.json differs): "
            "start a new run, without --ckpt_path"
        )
    if list(dataset.class_names) != record["class_names"]:
        raise ExperimentError(
            f"the images have the classes {', '.join(dataset.class_names)}, those of {run.path} have "
            f"{', '.join(record['class_names'])}"
        )
