"""Loss and scores of the validation images, by each side's own loop."""

from __future__ import annotations

import logging
import warnings

import numpy as np
from lightning.pytorch import Trainer

from keras_reference.data import EvaluationBatches, normalizer
from keras_reference.metrics import ClassScores
from keras_reference.module import compile_model
from lightning_vgg.experiment.specs import DataSpec, ExperimentSpec
from lightning_vgg.images.dataset import Dataset
from lightning_vgg.runs.scores import macro_scores
from lightning_vgg.training.data import ImageData
from lightning_vgg.training.module import VGGClassifier
from parity_tests.pair import Pair, Tensors, keras_precision


def lightning_scores(pair: Pair, data: DataSpec, dataset: Dataset) -> Tensors:
    """By ``Trainer.validate``."""
    experiment = ExperimentSpec(model=pair.spec, data=data)
    module = VGGClassifier(experiment, len(dataset.class_names))
    module.network = pair.torch.network
    images = ImageData(experiment)
    images.dataset = dataset
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        trainer = Trainer(
            accelerator="cpu",
            precision="64-true",
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        (scores,) = trainer.validate(module, images, verbose=False)
    return {name: np.array(value) for name, value in scores.items()}


def keras_scores(pair: Pair, data: DataSpec, dataset: Dataset) -> Tensors:
    """By ``model.evaluate``."""
    with keras_precision("float64"):
        compile_model(pair.keras.model, pair.spec.label_smoothing, optimizer=None)
        batches = EvaluationBatches(dataset.val, data, normalizer(dataset.normalization, "float64"))
        classes = ClassScores()
        logs = pair.keras.model.evaluate(batches, verbose=0, return_dict=True, callbacks=[classes])
    assert classes.confusion is not None
    scores = {"loss": logs["cross_entropy"], "acc": logs["acc"], **macro_scores(classes.confusion)}
    return {f"val_{name}": np.array(value) for name, value in scores.items()}
