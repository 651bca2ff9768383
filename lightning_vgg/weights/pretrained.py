"""A backbone's weights as arrays with Keras's layer names and torch's layout: block1_conv1.weight (O, I, 3, 3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.backbone_plan import BackbonePlan, plan_backbone, recorded_source
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.experiment.specs import BackboneSpec, ModelSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.preprocessing import PREPROCESSING
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.neutral import check_tensors, read_safetensors
from lightning_vgg.weights.source import find_source

Tensors = dict[str, np.ndarray]

KEY = "model.backbone.weights"
"""Of the experiment: what errors name."""

_CONVOLUTIONS = (
    # layer, index in torchvision.models.vgg16().features, channels in, channels out
    ("block1_conv1", 0, 3, 64),
    ("block1_conv2", 2, 64, 64),
    ("block2_conv1", 5, 64, 128),
    ("block2_conv2", 7, 128, 128),
    ("block3_conv1", 10, 128, 256),
    ("block3_conv2", 12, 256, 256),
    ("block3_conv3", 14, 256, 256),
    ("block4_conv1", 17, 256, 512),
    ("block4_conv2", 19, 512, 512),
    ("block4_conv3", 21, 512, 512),
    ("block5_conv1", 24, 512, 512),
    ("block5_conv2", 26, 512, 512),
    ("block5_conv3", 28, 512, 512),
)

FIRST_KERNEL = f"{_CONVOLUTIONS[0][0]}.weight"


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
        download: a name among NAMED_WEIGHTS -> tensors, the file's sha256, and its convention among PREPROCESSING.
        pth: a file that torch has written.
        checkpoint: a run of the framework -> the tensors of its best checkpoint under neutral names, and the file.
    """

    framework: str
    download: Callable[[str], tuple[Tensors, str, str]]
    pth: Callable[[Path], Tensors]
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
            tensors, sha256, convention = readers.download(spec.weights)
        case "file":
            weights, sha256 = path.name, file_sha256(path)
            tensors = readers.pth(path) if path.suffix in (".pth", ".pt") else read_weights_file(path)
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
        normalization = _recorded_normalization(run)
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
    """What run.json says of a model's semantics and of the weights that it starts from."""
    start = spec.init_from
    return {
        "semantics": spec.semantics,
        "semantics_except": spec.semantics_except,
        "initial_weights_sha256": file_sha256(Path(start).expanduser()) if start else None,
        **({"backbone": pretrained.description} if pretrained else {}),
    }


def recorded_pretrained(spec: BackboneSpec | None, image_size: int, run: RunFolder) -> Pretrained | None:
    """The backbone of a trained run, if any; its checkpoints hold the weights: the files it came from may be gone."""
    if spec is None:
        return None
    record = run.read_record()["backbone"]
    return Pretrained(
        plan_backbone(spec, recorded_source(record), image_size), None, _recorded_normalization(run), record
    )


def _recorded_normalization(run: RunFolder) -> Normalization:
    record = run.read_record()["normalization"]
    return Normalization(tuple(record["mean"]), tuple(record["std"]))


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


def read_weights_file(path: Path) -> Tensors:
    """VGG16's convolutions from a .safetensors file with torch's names or a .h5 file with Keras's.

    Raises:
        ExperimentError: the file cannot be read, or a tensor is missing, unknown, misshapen or not finite.
    """
    if path.suffix == ".h5":
        return from_keras_names(str(path), _read_h5(path))
    return from_torch_names(str(path), read_safetensors(path, KEY))


def from_torch_names(source: str, tensors: Mapping[str, np.ndarray]) -> Tensors:
    """From the state dict of ``torchvision.models.vgg16()``, with or without its classifier, which is left out.

    Raises:
        ExperimentError: a tensor is at fault; ``source`` says whose.
    """
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer, index, channels, width in _CONVOLUTIONS:
        wanted[f"{layer}.weight"] = f"features.{index}.weight", (width, channels, 3, 3)
        wanted[f"{layer}.bias"] = f"features.{index}.bias", (width,)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    check_tensors(source, tensors, dict(wanted.values()))
    return {name: tensors[theirs].astype(np.float32) for name, (theirs, _) in wanted.items()}


def from_keras_names(source: str, tensors: Mapping[str, np.ndarray]) -> Tensors:
    """From ``keras.applications.VGG16``'s variables: block1_conv1.kernel (3, 3, in, out), block1_conv1.bias.

    Raises:
        ExperimentError: a tensor is at fault; ``source`` says whose.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, _, channels, width in _CONVOLUTIONS:
        shapes |= {f"{layer}.kernel": (3, 3, channels, width), f"{layer}.bias": (width,)}
    check_tensors(source, tensors, shapes)
    return {
        name.replace(".kernel", ".weight"): np.ascontiguousarray(
            tensors[name].transpose(3, 2, 0, 1) if name.endswith(".kernel") else tensors[name], dtype=np.float32
        )
        for name in shapes
    }


def to_rgb(tensors: Tensors) -> Tensors:
    """The same network for images in RGB instead of BGR: the first convolution's input channels the other way round."""
    return {**tensors, FIRST_KERNEL: np.ascontiguousarray(tensors[FIRST_KERNEL][:, ::-1])}


def _read_h5(path: Path) -> Tensors:
    import h5py

    tensors: Tensors = {}

    def visit(name: str, item: Any) -> None:
        ours = _keras_name(name) if isinstance(item, h5py.Dataset) else None
        if ours is not None:
            tensors[ours] = np.asarray(item)

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise ExperimentError(f"{KEY}: {path} is not an intact HDF5 file: {error}") from None
    return tensors


def _keras_name(path: str) -> str | None:
    """The layer and variable that a dataset in a .h5 file holds; None for the optimizer's and those of the top.

    Keras 3 counts the layers in a .weights.h5 (layers/conv2d_3/vars/0); older files have their names, and the
    variable's (block1_conv1/block1_conv1_W_1:0, block1_conv1/block1_conv1/kernel:0).
    """
    if re.search(r"(^|/)(optimizer|fc1|fc2|predictions|layers/dense)", path):
        return None
    counted = re.fullmatch(r"(?:_?layers)/conv2d(?:_(\d+))?/vars/([01])", path)
    if counted is not None and int(counted[1] or 0) < len(_CONVOLUTIONS):
        return f"{_CONVOLUTIONS[int(counted[1] or 0)][0]}.{'kernel' if counted[2] == '0' else 'bias'}"
    named = re.search(r"(block\d_conv\d)/(?:.*/)?(?:block\d_conv\d_)?(kernel|bias|W|b)(?:_\d+)?(?::0)?$", path)
    if named is not None:
        return f"{named[1]}.{ {'W': 'kernel', 'b': 'bias'}.get(named[2], named[2]) }"
    return path
