"""What ``model.backbone.weights`` names: nothing, a download, a file, or a run of this project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.nearest import did_you_mean
from lightning_vgg.experiment.backbone_plan import FAMILY, Source, recorded_source
from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.experiment.specs import BackboneSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.dataset import recorded_normalization
from lightning_vgg.images.preprocessing import NAMED_WEIGHTS, PREPROCESSING
from lightning_vgg.runs.folder import RunFolder

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".h5")


def find_source(spec: BackboneSpec, semantics: Semantics) -> Source:
    """Say what ``weights`` means, and check that ``preprocessing`` goes with it.

    Args:
        spec: the backbone.
        semantics: those of the experiment; a run brings its own.

    Raises:
        ExperimentError: there are no such weights, or their preprocessing is missing or contradicted.
    """
    path, network = Path(spec.weights).expanduser(), FAMILY[spec.network]
    if spec.weights == "none":
        return Source("none", network, semantics)
    if spec.weights in NAMED_WEIGHTS:
        _refuse_other_preprocessing(spec, NAMED_WEIGHTS[spec.weights])
        if spec.weights == "IMAGENET1K_FEATURES" and (spec.network != "vgg16" or spec.layer.startswith("fc")):
            raise ExperimentError(
                "model.backbone.weights: IMAGENET1K_FEATURES are the convolutions of vgg16 alone; for "
                f"{spec.network}, layer {spec.layer}, name IMAGENET1K_V1 or a file"
            )
        return Source("named", network, semantics)
    if path.is_dir():
        if spec.network != "vgg16":
            raise ExperimentError(
                f"model.backbone.network is {spec.network}, but the run {spec.weights} brings its own: leave it out"
            )
        _refuse_other_preprocessing(spec, None)
        return _run_source(RunFolder.open(path))
    if not path.is_file():
        names = [*NAMED_WEIGHTS, "none"]
        hint = did_you_mean(spec.weights, names)
        raise ExperimentError(
            f"model.backbone.weights: there is no file or run folder {spec.weights}{hint}; "
            f"known names are {', '.join(names)}"
        )
    if path.suffix not in FILE_SUFFIXES:
        raise ExperimentError(
            f"model.backbone.weights: {path} is of no known kind; weights are in {', '.join(FILE_SUFFIXES)}"
        )
    if spec.preprocessing is None:
        raise ExperimentError(
            f"model.backbone.preprocessing is missing: {path} does not say what its weights expect of pixels. "
            f"It is one of {', '.join(PREPROCESSING)}: torchvision for weights that torchvision trained, "
            "torchvision_features for the original network in RGB, keras_caffe for keras.applications.VGG16"
        )
    return Source("file", network, semantics)


def expected_normalization(spec: BackboneSpec, semantics: Semantics) -> Normalization | None:
    """What the weights expect of pixels, without reading them; None: mean 0 and deviation 1 over the training images.

    Raises:
        ExperimentError: as `find_source`.
    """
    source = find_source(spec, semantics)
    if source.kind == "run":
        return recorded_normalization(RunFolder.open(Path(spec.weights).expanduser()))
    return PREPROCESSING[NAMED_WEIGHTS.get(spec.weights) or spec.preprocessing or "cifar"].normalization


def _refuse_other_preprocessing(spec: BackboneSpec, own: str | None) -> None:
    if spec.preprocessing not in (None, own):
        raise ExperimentError(
            f"model.backbone.preprocessing is {spec.preprocessing}, but the weights {spec.weights} bring "
            f"{own or 'the normalization of their run'}: set it to null"
        )


def _run_source(run: RunFolder) -> Source:
    record = run.read_record()
    if "backbone" in record:  # its network is a head; what can be transferred is what lies below
        return replace(recorded_source(record["backbone"]), kind="run")
    model = read_experiment(run.path / "config.yaml").model
    if not model.network.filters:
        raise ExperimentError(f"model.backbone.weights: {run.path} has no convolutional block to take over")
    return Source("run", model.network, model.resolved_semantics)
