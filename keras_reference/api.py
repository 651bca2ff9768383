"""The functions of `lightning_vgg.api`, by Keras: the same names, settings and run folders.

Importing this loads no framework; a function loads what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from keras_reference.command_line import read_command, train_or_test
from lightning_vgg.api import compare_arms as compare_arms
from lightning_vgg.api import load_images as load_images
from lightning_vgg.api import plan_network as plan_network
from lightning_vgg.api import report_runs as report_runs
from lightning_vgg.api import show_augmentation as show_augmentation
from lightning_vgg.api import show_network as show_network
from lightning_vgg.common.errors import ExperimentError as ExperimentError
from lightning_vgg.experiment.arguments import Settings, as_arguments
from lightning_vgg.experiment.recipe import parse_recipe as parse_recipe
from lightning_vgg.runs.folder import TESTED
from lightning_vgg.runs.folder import RunFolder as RunFolder
from lightning_vgg.weights.export_arguments import export_request
from lightning_vgg.weights.feature_store import LabelledFeatures

if TYPE_CHECKING:
    import keras


def build_network(*settings: Settings, num_classes: int = 10) -> keras.Model:
    """The network as `fit` starts with it: its weights are drawn from ``seed_everything``, or loaded.

    Args:
        settings: what to train.
        num_classes: logits.

    Returns:
        float32 images (B, S, S, 3) -> logits (B, num_classes); on a backbone, with the backbone.

    Raises:
        ExperimentError: the network cannot be built, or its weights cannot be loaded.
    """
    experiment, _ = read_command("fit", as_arguments(*settings))
    from keras_reference.module import build

    return build(experiment, num_classes)


def fit(*settings: Settings) -> RunFolder:
    """Train with ``model.fit``, then test the best checkpoint: ``keras-reference fit``.

    Args:
        settings: what to train.

    Returns:
        The run's folder, with the files that Lightning writes.

    Raises:
        ExperimentError: before anything is written, if a setting is wrong, or Keras does not implement it; later, if
            the loss is not finite.
    """
    return train_or_test("fit", as_arguments(*settings))


def evaluate(run: str | os.PathLike[str], settings: Mapping[str, object] | None = None) -> dict[str, float]:
    """Evaluate the best checkpoint of a run on the test images once more: ``keras-reference test``.

    Args:
        run: its folder.
        settings: where the images are now (``data.root``).

    Returns:
        ``test_loss`` in nats, and ``test_acc``, ``test_balanced_acc`` and ``test_macro_f1``, fractions.

    Raises:
        ExperimentError: there is no such run, or Lightning trained it.
    """
    tested = train_or_test("test", as_arguments(RunFolder.open(run).path / "config.yaml", settings or {}))
    record = tested.read_record()
    return {name: record[name] for name in TESTED}


def extract_features(*settings: Settings) -> dict[str, LabelledFeatures]:
    """The features that an experiment's backbone computes from its images: ``keras-reference features``.

    Args:
        settings: an experiment with a ``model.backbone``.

    Returns:
        Of ``train``, ``val`` and ``test``: features float32 (N, H, W, C), labels int64 (N,).

    Raises:
        ExperimentError: there is no backbone, or its weights or the images cannot be loaded.
    """
    experiment, _ = read_command("features", as_arguments(*settings))
    from keras_reference.features import backbone_features

    return backbone_features(experiment)


def export_weights(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    format: str | None = None,
    with_preprocessing: bool = False,
) -> Path:
    """Write the best weights of a run as a file: ``keras-reference export``.

    Args:
        run: its folder.
        output: the file; None for ``weights.safetensors`` or ``model.*`` in the run folder.
        format: safetensors, from which both frameworks can start, or the network itself: onnx, torch-export or keras;
            None: what ``output`` ends in.
        with_preprocessing: whether the network takes uint8 images (B, S, S, 3) and returns probabilities, instead of
            normalized images and logits.

    Raises:
        ExperimentError: the run was not trained by Keras, or the file does not compute what the run does.
    """
    request = export_request(run, output, format, with_preprocessing)
    from keras_reference.export import export_run

    return export_run(request)
