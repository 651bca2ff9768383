"""What a program or a notebook calls: the commands of ``lightning-vgg``, and the steps inside them, as functions.

Importing this loads no framework; a function loads what it needs. Settings are the command line's: YAML files, and
mappings by dotted names (``{"model.network.filters": [16, 32]}``), so whatever one can say there can be said here.
What the user can correct raises `ExperimentError`.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_vgg.common.errors import ExperimentError as ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.arguments import Settings, as_arguments
from lightning_vgg.experiment.backbone_plan import plan_backbone, plan_model
from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.experiment.parsing import parse_experiment
from lightning_vgg.experiment.recipe import parse_recipe as parse_recipe
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.images.dataset import Dataset, load_dataset
from lightning_vgg.runs.folder import RunFolder as RunFolder
from lightning_vgg.weights.export_arguments import ExportRequest, export_request
from lightning_vgg.weights.feature_store import LabelledFeatures
from lightning_vgg.weights.source import find_source

if TYPE_CHECKING:
    import numpy as np
    import optuna
    from PIL.Image import Image
    from torch import nn

    from lightning_vgg.training.lightning_cli import ExperimentCLI

Picture = Literal["filters", "activations", "mistakes", "attention"]

Run = str | os.PathLike[str]
"""A run folder, or its path."""


def load_images(*settings: Settings) -> Dataset:
    """The training, validation and test images of an experiment.

    Returns:
        The splits ``train``, ``val`` and ``test``: images uint8 (N, S, S, 3), labels int64 (N,).

    Raises:
        ExperimentError: a setting is unknown, or the images cannot be loaded.

    >>> digits = load_images({"data.source": "digits", "data.image_size": 16})
    >>> digits.train.images.shape, digits.test.images.dtype
    ((1295, 16, 16, 3), dtype('uint8'))
    >>> digits.class_names[:3]
    ('0', '1', '2')
    """
    return load_dataset(_experiment(*settings).data)


def plan_network(*settings: Settings, num_classes: int = 10) -> NetworkPlan:
    """Every layer of an experiment's network with its name, shapes and parameters, without building it.

    On a backbone it is the part above it.

    Args:
        settings: what to train.
        num_classes: logits.

    Raises:
        ExperimentError: a recipe cannot be read, or a block would pool away the last pixel.

    >>> lesson = {"model.network.conv_block": "conv - maxpool", "model.network.filters": [8, 16]}
    >>> for layer in plan_network(lesson, {"model.network.units": []}).layers:
    ...     print(layer.name, layer.output_shape, layer.trainable_parameters)
    block1.conv1 (32, 32, 8) 224
    block1.maxpool1 (16, 16, 8) 0
    block2.conv1 (16, 16, 16) 1168
    block2.maxpool1 (8, 8, 16) 0
    classifier (10,) 10250

    >>> plan_network(lesson, {"model.network.filters": [8] * 6})
    Traceback (most recent call last):
        ...
    lightning_vgg.experiment.network_plan.NetworkError: block6 (conv - maxpool) cannot be built: its 'maxpool' \
needs 2x2 pixels and gets 1x1; use fewer blocks, fewer pools, or larger images
    """
    return plan_experiment(_experiment(*settings), num_classes)


def plan_experiment(experiment: ExperimentSpec, num_classes: int) -> NetworkPlan:
    """:func:`plan_network` of settings that are read already."""
    spec, backbone = experiment.model, None
    if spec.backbone is not None:
        source = find_source(spec.backbone, spec.resolved_semantics)
        backbone = plan_backbone(spec.backbone, source, experiment.image_size)
    return plan_model(experiment, num_classes, backbone)


def build_network(*settings: Settings, num_classes: int = 10) -> nn.Module:
    """The network as `fit` starts with it: its weights are drawn from ``seed_everything``, or loaded.

    Args:
        settings: what to train.
        num_classes: logits.

    Returns:
        float32 images (B, 3, S, S) -> logits (B, num_classes); on a backbone, with the backbone. Of
        ``data.grayscale`` (B, 1, S, S).

    Raises:
        ExperimentError: the network cannot be built, or its weights cannot be loaded.
    """
    import torch

    from lightning_vgg.training.module import VGGClassifier

    experiment = _experiment(*settings)
    torch.manual_seed(experiment.seed_everything)
    return VGGClassifier(experiment, num_classes).network


def fit(*settings: Settings) -> RunFolder:
    """Train, keep the checkpoint of the best epoch (``model.best_by``), and test that one: ``lightning-vgg fit``.

    Transfer learning and fine-tuning are this, too, of an experiment with a ``model.backbone``.

    Args:
        settings: what to train; ``ckpt_path`` continues a run.

    Returns:
        The run's folder: history, predictions, test accuracy, checkpoints; with ``report: true`` also report.html.

    Raises:
        ExperimentError: before anything is written, if a setting is wrong; later, if the loss is not finite.
    """
    return train_or_test("fit", as_arguments(*settings)).run


def train_or_test(command: str, args: list[str]) -> ExperimentCLI:
    """Run ``fit``, ``validate`` or ``test`` with its arguments, and write the report that ``report: true`` asks for."""
    from lightning_vgg.training.lightning_cli import run_command

    cli = run_command(command, args)
    if cli.reports:
        from lightning_vgg.report import report_run

        print(f"report   {report_run(cli.run)}")
    return cli


def evaluate(
    run: Run, settings: Mapping[str, object] | None = None, part: Literal["val", "test"] = "test"
) -> dict[str, float]:
    """Evaluate the best checkpoint of a run once more: ``lightning-vgg test`` and ``validate``.

    Args:
        run: its folder.
        settings: where the images are now (``data.root``), or the device (``trainer.accelerator``).
        part: the validation or the test images. The latter write their results into the run folder.

    Returns:
        ``test_loss`` in nats, and ``test_acc``, ``test_balanced_acc`` and ``test_macro_f1``, fractions; or ``val_loss``
        and so on.

    Raises:
        ExperimentError: there is no such run, or a setting contradicts what it was trained with.
    """
    command = {"val": "validate", "test": "test"}[part]
    cli = train_or_test(command, as_arguments(RunFolder.open(run).path / "config.yaml", settings or {}))
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items() if name.startswith(part)}


def predict_probabilities(run: Run, files: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """Probabilities of every class for image files, by the best checkpoint of a run: ``lightning-vgg predict``.

    Returns:
        float32 (files, classes).

    Raises:
        ExperimentError: the run has no checkpoint, or a file is no image.
    """
    from lightning_vgg.training.predict import predict_probabilities

    return predict_probabilities(RunFolder.open(run), [Path(file) for file in files])


def extract_features(*settings: Settings) -> dict[str, LabelledFeatures]:
    """The features that an experiment's backbone computes from its images: ``lightning-vgg features``.

    They are computed once and cached; `fit` uses them if the whole backbone is frozen.

    Args:
        settings: an experiment with a ``model.backbone``.

    Returns:
        Of ``train``, ``val`` and ``test``: features float32 (N, H, W, C), labels int64 (N,).

    Raises:
        ExperimentError: there is no backbone, or its weights or the images cannot be loaded.
    """
    from lightning_vgg.training.features import backbone_features

    return backbone_features(_experiment(*settings))


def export_weights(
    run: Run, output: str | os.PathLike[str] | None = None, format: str | None = None, with_preprocessing: bool = False
) -> Path:
    """Write the best weights of a run as a file: ``lightning-vgg export``.

    Args:
        run: its folder.
        output: the file; None for ``weights.safetensors`` or ``model.*`` in the run folder.
        format: safetensors, from which both frameworks can start, or the network itself: onnx, torch-export or keras;
            None: what ``output`` ends in.
        with_preprocessing: whether the network takes uint8 images (B, S, S, 3) and returns probabilities, instead of
            normalized images and logits.

    Raises:
        ExperimentError: the run was not trained by Lightning, or the file does not compute what the run does.
    """
    return write_export(export_request(run, output, format, with_preprocessing))


def write_export(request: ExportRequest) -> Path:
    """Write what is asked for; a file for Keras by the package that sees both frameworks."""
    if request.format == "keras":
        require("tensorflow", "keras")
        return importlib.import_module("parity_tests.export_across").export_for_keras(request)
    from lightning_vgg.training.export import export_run

    return export_run(request)


def show_network(*settings: Settings, num_classes: int = 10) -> Image:
    """Draw the layers of an experiment's network from left to right: ``lightning-vgg show network``.

    Args:
        settings: what to train.
        num_classes: logits.
    """
    from PIL import Image

    from lightning_vgg.show.architecture import draw_network

    experiment, file = _experiment(*settings), io.BytesIO()
    draw_network(plan_experiment(experiment, num_classes), title_of(experiment), file)
    return Image.open(file)


def show_augmentation(*settings: Settings) -> Image:
    """Draw training images as the network sees them in the first epochs: ``lightning-vgg show augmentation``.

    Args:
        settings: what to train; without ``data.augmentation``, each kind is shown by itself.

    Raises:
        ExperimentError: a setting is wrong, or the images cannot be loaded.
    """
    from PIL import Image

    from lightning_vgg.show.augmentation import draw_augmentation

    file = io.BytesIO()
    draw_augmentation(_experiment(*settings), file)
    return Image.open(file)


def title_of(experiment: ExperimentSpec) -> str:
    """Of the picture of a network: the experiment's name, and what goes in."""
    backbone = experiment.model.backbone
    below = f"{experiment.image_size} px" if backbone is None else f"on {backbone.layer}"
    return f"{experiment.experiment}, {below}"


def show_run(
    run: Run, what: Picture, image: str | os.PathLike[str] | int | None = None, layer: str | None = None
) -> Image:
    """A picture of what a trained network has learned and does: ``lightning-vgg show``.

    Args:
        run: its folder.
        what: ``filters``, the kernels of the first convolution; ``mistakes``, the wrong predictions on the test images
            that the network was surest of; ``activations``, a convolution's output for an image; ``attention``, by
            Grad-CAM, which parts of an image speak for its class (Selvaraju et al., 2017).
        image: of activations and attention: a file, or the number of a test image.
        layer: of activations and attention: a convolution, such as ``block2.conv1``; None for the last one.

    Raises:
        ExperimentError: there is no such run, image or layer, or nothing to draw.
    """
    from PIL import Image

    from lightning_vgg.show import pictures
    from lightning_vgg.training.trained_run import TrainedRun

    trained, file = TrainedRun(RunFolder.open(run)), io.BytesIO()
    match what:
        case "filters":
            pictures.draw_filters(trained, file)
        case "mistakes":
            pictures.draw_mistakes(trained, file)
        case "activations" | "attention":
            if image is None:
                raise ExperimentError(f"{what} are of an image: name a file, or the number of a test image")
            draw = pictures.draw_activations if what == "activations" else pictures.draw_attention
            draw(trained, str(image), layer, file)
    return Image.open(file)


def compare_arms(*settings: Settings) -> Path:
    """Train the arms of a comparison over several seeds, each run a process: ``lightning-vgg compare``.

    Finished runs are kept, and the same call continues from there.

    Args:
        settings: an experiment with a ``compare`` section; ``{"jobs": 2}`` for processes at once.

    Returns:
        The path of report.html; report.json, with every number, and report.md are beside it.

    Raises:
        ExperimentError: before anything is trained, if a setting is wrong; later, if a process failed.
    """
    from lightning_vgg.compare.plan import comparison_parser
    from lightning_vgg.compare.runner import begin, compare

    report, complete = compare(begin(comparison_parser(), as_arguments(*settings)))
    if not complete:
        raise ExperimentError(f"some runs of the comparison failed; {report} says which, and why")
    return report


def train_twins(*settings: Settings) -> PlainDict:
    """Train an experiment once in each framework, in float64 and from the same weights: ``lightning-vgg twin``.

    The same call continues where it was stopped.

    Args:
        settings: what to train.

    Returns:
        ``identical``: whether both make the same prediction for every test image; how far losses and weights differ;
        ``parted``: the step in which the weights went apart, or None.

    Raises:
        ExperimentError: before anything is trained, if Keras does not implement a setting; later, if a process failed.
    """
    from lightning_vgg.compare.twin import read_twin, train_twin, twin_parser

    return train_twin(read_twin(twin_parser(), as_arguments(*settings)))


def report_runs(*runs: Run, margin: float | None = None) -> Path:
    """Write the report of how runs compare: ``lightning-vgg report``.

    Args:
        runs: run folders, or the folder of one comparison.
        margin: difference of test accuracy, a fraction, up to which arms count as equivalent; None for 0.01, or for
            that of the comparison.

    Returns:
        The path of report.html; report.json and report.md are beside it.

    Raises:
        ExperimentError: a path is neither a run folder nor a comparison, or runs were tested on different images.
    """
    from lightning_vgg.report import write_report
    from lightning_vgg.report.inputs import find_comparison

    return write_report(*find_comparison([Path(run) for run in runs], margin))


def tune_settings(*settings: Settings) -> optuna.Study:
    """Search for the best settings of an experiment with Optuna: ``lightning-vgg tune``.

    The same call continues a study that stopped.

    Args:
        settings: an experiment with a ``tune.space``; ``trials``, ``jobs``, ``framework``, ``storage``.

    Returns:
        Optuna's study: ``best_params``, ``best_value`` and ``trials``.

    Raises:
        ExperimentError: before the first trial, if a setting is wrong.
    """
    from lightning_vgg.tune.search import tune
    from lightning_vgg.tune.spec import tune_parser

    return tune(tune_parser(), as_arguments(*settings))


def measure_parity(*settings: Settings) -> PlainDict:
    """Measure how far Lightning and Keras differ on an experiment: ``lightning-vgg parity``.

    It takes minutes, in a process of its own, where both frameworks compute on the CPU, in float64 and float32.

    Args:
        settings: what to train; ``{"ablate": True}`` measures instead how much each default matters, and
            ``{"locate": True}`` each layer and stage by itself.

    Returns:
        ``rungs``, each with what was measured and its limit, ``reported`` without a limit, and ``passed``; or
        ``ablation``; or ``located``, the ``culprit`` in words or None, and ``passed``.

    Raises:
        ExperimentError: the ladder could not be measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "parity.json"
        command = [sys.executable, "-m", "lightning_vgg", "parity", *as_arguments(*settings, {"json": figures})]
        process = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if not figures.exists():
            raise ExperimentError(process.stderr.strip())
        return json.loads(figures.read_text())


def _experiment(*settings: Settings) -> ExperimentSpec:
    return parse_experiment(as_arguments(*settings))
