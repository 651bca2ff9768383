"""``keras-reference fit | test``: one experiment by ``model.compile`` and ``model.fit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml

from keras_reference.backend import describe_backend, prepare_keras
from keras_reference.batches import EvaluationBatches, TrainingBatches
from keras_reference.blocks import build_model
from keras_reference.callbacks import NextEpoch, RefuseBadLoss, RunRecorder, WandbCurves, draw_run_curves
from keras_reference.config import Experiment
from keras_reference.optim import build_optimizer, training_loss
from keras_reference.weights import load_file
from lightning_vgg.experiment.dataset import Dataset, Part, load_dataset
from lightning_vgg.experiment.network import plan_network
from lightning_vgg.experiment.runs import RunFolder
from lightning_vgg.experiment.schedule import rate_factors
from lightning_vgg.experiment.tracking import wandb_arguments


def fit(experiment: Experiment) -> RunFolder:
    """Train, then test the best checkpoint; returns the new run folder."""
    spec, trainer = experiment.model, experiment.trainer
    dataset = load_dataset(experiment.data)
    prepare_keras(trainer.precision, experiment.seed)
    plan = plan_network(spec.network, experiment.data.image_size, len(dataset.class_names))
    model = build_model(plan)
    if spec.init_from is not None:
        load_file(model, plan, Path(spec.init_from).expanduser())
    batches = TrainingBatches(
        dataset.train, experiment.data, dataset.normalization, experiment.seed, keras.config.floatx()
    )
    rates = spec.optimizer.learning_rate * rate_factors(spec.schedule, trainer.max_epochs * len(batches))
    compile_model(model, experiment, rates)
    run = RunFolder.create(experiment.root, experiment.experiment, experiment.name, experiment.seed)
    run.write_config(experiment.text)
    run.update_record(**describe_run(model, experiment, dataset))
    bar = sys.stdout.isatty() if trainer.enable_progress_bar is None else trainer.enable_progress_bar
    validation = evaluation_batches(dataset.val, experiment, dataset) if len(dataset.val.labels) else None
    curves = [] if trainer.logger is False else [WandbCurves(run, _wandb_arguments(run, experiment))]
    recorder = RunRecorder(run, rates, len(dataset.train.labels), echo=not bar)
    model.fit(
        batches,
        epochs=trainer.max_epochs,
        shuffle=False,  # the batches are shuffled already
        validation_data=validation,
        verbose=1 if bar else 0,
        # In this order: an epoch's row is on disk before its checkpoint, and before W&B reads it.
        callbacks=[NextEpoch(batches), RefuseBadLoss(), recorder, *checkpoints(run, validation is not None), *curves],
    )
    results = test_best(model, run, experiment, dataset)
    for wandb_curves in curves:
        wandb_curves.finish(results)
    return run


def test(experiment: Experiment, run: RunFolder) -> RunFolder:
    """Test the best checkpoint of a run once more; returns the run's folder."""
    dataset = load_dataset(experiment.data)
    prepare_keras(experiment.trainer.precision, experiment.seed)
    model = build_model(plan_network(experiment.model.network, experiment.data.image_size, len(dataset.class_names)))
    test_best(model, run, experiment, dataset)
    return run


def compile_model(model: keras.Model, experiment: Experiment, rates: np.ndarray) -> None:
    """Optimizer, loss and metrics. Metrics are running means over the epoch's images."""
    spec = experiment.model
    on_jax = keras.config.backend() == "jax"
    dtype = None if on_jax else "float64"  # sums over many images; JAX has no float64 unless told at its start
    model.compile(
        optimizer=build_optimizer(spec.optimizer, rates, experiment.trainer.gradient_clip_val, model),
        loss=training_loss(spec.label_smoothing, model.output_shape[-1]),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="acc", dtype=dtype),
            keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True, dtype=dtype),
        ],
        jit_compile=on_jax,  # without it JAX runs operation by operation; TensorFlow compiles graphs anyway
    )


def checkpoints(run: RunFolder, validated: bool) -> list[keras.callbacks.Callback]:
    """The first epoch with the highest validation accuracy (without validation images: the last one), and the last."""
    best, last = (str(run.checkpoints / f"{which}.weights.h5") for which in ("best", "last"))
    return [
        keras.callbacks.ModelCheckpoint(
            best, monitor="val_acc", mode="max", save_best_only=validated, save_weights_only=True
        ),
        keras.callbacks.ModelCheckpoint(last, save_weights_only=True),
    ]


def evaluation_batches(part: Part, experiment: Experiment, dataset: Dataset) -> EvaluationBatches:
    return EvaluationBatches(part, experiment.data, dataset.normalization, keras.config.floatx())


def test_best(model: keras.Model, run: RunFolder, experiment: Experiment, dataset: Dataset) -> dict[str, float]:
    """Load the best checkpoint, write its test results into the run folder, and return loss and accuracy."""
    checkpoint = run.checkpoint("best")
    model.load_weights(checkpoint)
    logits = model.predict(evaluation_batches(dataset.test, experiment, dataset), verbose=0)
    logits = logits.astype(keras.config.floatx())
    labels = dataset.test.labels
    right = logits.argmax(1) == labels
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
    results = {"test_loss": float(loss), "test_acc": float(right.mean())}
    with np.errstate(invalid="ignore"):  # a class without test images has no accuracy
        counts = np.bincount(labels, minlength=len(dataset.class_names))
        per_class = np.bincount(labels, weights=right, minlength=len(dataset.class_names)) / counts
    run.write_predictions(labels, logits.astype(np.float32))
    run.update_record(
        checkpoint=f"{run.checkpoints.name}/{checkpoint.name}", **results, test_acc_per_class=per_class.tolist()
    )
    draw_run_curves(run)
    return results


def describe_run(model: keras.Model, experiment: Experiment, dataset: Dataset) -> dict[str, Any]:
    """What run.json says of a run before its results are known."""
    return {
        **describe_backend(),
        "precision": experiment.trainer.precision,
        "seed": experiment.seed,
        "semantics": experiment.model.semantics,
        "semantics_except": experiment.model.semantics_except,
        **dataset.describe(),
        # Keras counts batch norm's statistics among the parameters; here, as in torch, they are none.
        "parameters": _count(model.trainable_variables),
        "trainable_parameters": _count(model.trainable_variables),
        "frozen_parameters": 0,
    }


def _count(variables: list[keras.Variable]) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def _wandb_arguments(run: RunFolder, experiment: Experiment) -> dict[str, Any]:
    return wandb_arguments(run, experiment.experiment, "keras", yaml.safe_load(experiment.text))
