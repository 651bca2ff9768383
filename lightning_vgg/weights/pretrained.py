"""A backbone's weights as arrays with Keras's layer names and torch's layout: block1_conv1.weight (O, I, 3, 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.backbone_plan import BackbonePlan, plan_backbone, recorded_source
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.experiment.specs import BackboneSpec, ModelSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.dataset import recorded_normalization
from lightning_vgg.images.preprocessing import PREPROCESSING
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.neutral import read_safetensors
from lightning_vgg.weights.published import KEY, Tensors, read_weights_file
from lightning_vgg.weights.source import find_source

FIRST_KERNEL = "block1_conv1.weight"


@dataclass(frozen=True)
class Pretrained:
    """A backbone before it is built.

    Attributes:
        plan: its layers.
        tensors: parameters and statistics, ``block1_conv1.weight`` and so on, for RGB; None: as initialized.
        normalization: that the weights expect; None: that of the training images.
        description: what run.json says of it.
    """

    plan: BackbonePlan
    tensors: Tensors | None
    normalization: Normalization | None
    description: PlainDict


@dataclass(frozen=True)
class Readers:
    """What each framework reads in its own way.

    Attributes:
        framework: whose runs it reads, as run.json names it.
        download: a name among NAMED_WEIGHTS, and whose layers -> tensors, the file's sha256, and its convention among
            PREPROCESSING.
        pth: a file that torch has written.
        checkpoint: a run of the framework -> the tensors of its best checkpoint under neutral names, and the file.
    """

    framework: str
    download: Callable[[str, BackbonePlan], tuple[Tensors, str, str]]
    pth: Callable[[Path, BackbonePlan], Tensors]
    checkpoint: Callable[[RunFolder], tuple[Tensors, Path]]


def read_pretrained(spec: BackboneSpec, image_size: int, semantics: Semantics, readers: Readers) -> Pretrained:
    """Find, fetch and read the weights of a backbone.

    Args:
        spec: the backbone.
        image_size: as the images are stored.
        semantics: those of the experiment.
        readers: of the framework that asks.

    Raises:
        ExperimentError: the weights cannot be had, do not fit, or come without their preprocessing.
    """
    source = find_source(spec, semantics)
    plan = plan_backbone(spec, source, image_size)
    path = Path(spec.weights).expanduser()
    tensors: Tensors | None = None
    convention: str = spec.preprocessing or "cifar"
    weights, sha256 = spec.weights, None
    match source.kind:
        case "named":
            tensors, sha256, convention = readers.download(spec.weights, plan)
        case "file":
            weights, sha256 = path.name, file_sha256(path)
            tensors = readers.pth(path, plan) if path.suffix in (".pth", ".pt") else read_weights_file(path, plan)
        case "run":
            run = RunFolder.open(path)
            weights, convention = f"{path.resolve().parent.name}/{path.resolve().name}", "its own"
            tensors, file = _read_run(run, plan, readers)
            sha256 = file_sha256(file)
    if convention in PREPROCESSING:
        normalization = PREPROCESSING[convention].normalization
        if tensors is not None and PREPROCESSING[convention].bgr:
            tensors = to_rgb(tensors)
    else:
        normalization = recorded_normalization(run)
    description = {
        "weights": weights,
        "weights_sha256": sha256,
        "preprocessing": convention,
        "layer": spec.layer,
        "pooling": spec.pooling,
        "image_size": plan.image_size,
        "freeze_until": spec.freeze_until,
        "unfreeze": spec.unfreeze,
        **source.describe(),
    }
    return Pretrained(plan, tensors, normalization, description)


def describe_start(spec: ModelSpec, pretrained: Pretrained | None) -> PlainDict:
    """What run.json says of a model's semantics, its best epoch, and the weights that it starts from."""
    start = spec.init_from
    return {
        "semantics": spec.semantics,
        "semantics_except": spec.semantics_except,
        "best_by": spec.best_by,
        "initial_weights_sha256": file_sha256(Path(start).expanduser()) if start else None,
        **({"backbone": pretrained.description} if pretrained else {}),
    }


def recorded_pretrained(spec: BackboneSpec | None, image_size: int, run: RunFolder) -> Pretrained | None:
    """The backbone of a trained run, if any; its checkpoints hold the weights: the files it came from may be gone."""
    if spec is None:
        return None
    record = run.read_record()["backbone"]
    return Pretrained(
        plan_backbone(spec, recorded_source(record), image_size), None, recorded_normalization(run), record
    )


def _read_run(run: RunFolder, plan: BackbonePlan, readers: Readers) -> tuple[Tensors, Path]:
    """The layers of a run's best checkpoint, or of the exported weights of one that the other framework trained."""
    framework = run.read_record().get("framework")
    if framework == readers.framework:
        tensors, path = readers.checkpoint(run)
    else:
        path = run.path / "weights.safetensors"
        if not path.is_file():
            program = "keras-reference" if framework == "keras" else "lightning-vgg"
            raise ExperimentError(
                f"{KEY}: {run.path} was trained by {framework or 'nothing yet'}: write its weights as "
                f"a file first: {program} export {run.path}"
            )
        tensors = read_safetensors(path, KEY)
    ours: Tensors = {}
    for layer, original in zip(plan.layers, plan.source.layers, strict=False):
        for prefix in (f"{original.name}.", f"backbone.{layer.name}."):
            ours |= {
                f"{layer.name}.{name.removeprefix(prefix)}": tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
    return ours, path


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_rgb(tensors: Tensors) -> Tensors:
    """The same network for images in RGB instead of BGR: the first convolution's input channels the other way round."""
    return {**tensors, FIRST_KERNEL: np.ascontiguousarray(tensors[FIRST_KERNEL][:, ::-1])}
