"""``keras-reference fit | test``: one experiment by ``model.compile`` and ``model.fit``."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

from keras_reference.averaging import ValidateAverage
from keras_reference.backend import prepare_keras
from keras_reference.callbacks import LastStep, NextEpoch, RefuseBadLoss, RunRecorder, StopWhere, describe_run
from keras_reference.checkpoints import LAST, Checkpoints
from keras_reference.data import EvaluationBatches, TrainingBatches
from keras_reference.features import kept_features
from keras_reference.loggers import SendCurves, build_curves
from keras_reference.metrics import Accuracy, ClassScores, CrossEntropy
from keras_reference.mistakes import picture_mistakes
from keras_reference.optim import GroupedOptimizer, build_optimizer, training_loss
from keras_reference.patience import Patience
from keras_reference.pretrained import load_pretrained
from keras_reference.transfer import Network, count_parameters, parameter_groups
from keras_reference.weight_trace import TraceWeights
from keras_reference.weights import load_network
from lightning_vgg.common.interruption import Interrupted
from lightning_vgg.experiment.backbone_plan import freezing_line, plan_model
from lightning_vgg.experiment.settings import config_text, plain_settings
from lightning_vgg.experiment.specs import AugmentationSpec, ExperimentSpec
from lightning_vgg.images.dataset import load_dataset, refuse_other_images
from lightning_vgg.runs import weight_trace
from lightning_vgg.runs.class_counts import class_count_lines
from lightning_vgg.runs.folder import RunFolder, Watch
from lightning_vgg.runs.scores import confusion, macro_scores
from lightning_vgg.weights.feature_store import say_features_are_not_kept
from lightning_vgg.weights.pretrained import Pretrained, recorded_pretrained


def fit(experiment: ExperimentSpec, watch: Watch | None = None, resumed: RunFolder | None = None) -> RunFolder:
    """Train, then test the best checkpoint; returns the run folder.

    Args:
        experiment: what to train.
        watch: of a trial of a study: called after each epoch, says whether to stop; nothing is printed or tested.
        resumed: a run of this experiment to continue, after its last complete epoch.
    """
    spec, size = experiment.model, experiment.image_size
    pretrained = None
    if resumed is not None and (resumed.checkpoints / LAST).exists():
        pretrained = recorded_pretrained(spec.backbone, size, resumed)
        training = Training(experiment, pretrained)
    else:
        if spec.backbone is not None:
            pretrained = load_pretrained(spec.backbone, size, spec.resolved_semantics)
        training = Training(experiment, pretrained)
        if spec.init_from is not None:
            load_network(training.network.tensors(), Path(spec.init_from).expanduser())
    if resumed is not None:
        refuse_other_images(training.dataset, resumed, resuming=True)
    run = resumed or RunFolder.create(
        experiment.root, experiment.experiment, experiment.name, experiment.seed_everything
    )
    try:
        with run.being_trained():
            train(training, run, pretrained, watch)
    except Interrupted as stop:
        last = run.checkpoints / LAST
        raise Interrupted(stop.number, str(last) if watch is None and last.exists() else None) from None
    return run


def train(training: Training, run: RunFolder, pretrained: Pretrained | None, watch: Watch | None) -> None:
    """Train in a run folder, from the beginning or from where it stands; then test, unless the run is watched."""
    experiment, network, dataset = training.experiment, training.network, training.dataset
    spec, trainer, steps = experiment.model, experiment.trainer, training.steps
    rates = spec.learning_rates(trainer.max_epochs * steps)
    optimizer = training.optimizer(rates)
    whole = network.model(training.stages[0][2])
    validated = len(dataset.val.labels) > 0
    keeper = Checkpoints(run, whole, optimizer, spec.best_by if validated else None)
    done = keeper.resume()
    run.write_config(config_text(experiment))
    run.update_record(**describe_run(experiment, dataset, network, pretrained))
    batches = training.batches()
    validation = training.evaluation("val") if validated else None
    bar = sys.stdout.isatty() if trainer.enable_progress_bar is None else trainer.enable_progress_bar
    bar = bar and watch is None
    curves = SendCurves(run, build_curves(trainer.loggers, run, experiment.experiment, plain_settings(experiment)))
    echo = None if bar or watch is not None else trainer.max_epochs
    patience, scores = Patience(run, spec), ClassScores()
    recorder = RunRecorder(run, rates, patience, scores, len(dataset.train.labels), echo)
    # In this order: an epoch's row is on disk before its checkpoint, and before W&B reads it.
    trace = [TraceWeights(run, network, done * steps)] if weight_trace.is_wanted() else []
    accumulated = trainer.accumulate_grad_batches
    last_steps = [LastStep(len(batches), accumulated)] if accumulated > 1 else []
    averages = [] if spec.optimizer.ema is None else [ValidateAverage()]
    class_weight = None if dataset.class_weights is None else dict(enumerate(dataset.class_weights.tolist()))
    callbacks = [
        NextEpoch(batches),
        *last_steps,
        *averages,
        RefuseBadLoss(run, steps, accumulated),
        *trace,
        scores,
        recorder,
        patience,
        keeper,
        curves,
    ]
    if watch is not None:
        callbacks.append(StopWhere(watch))
    if watch is None:
        for line in class_count_lines(dataset.images_per_class, class_weight is not None, spec.best_by):
            print(line, flush=True)
    for first, end, frozen in training.stages:
        if end <= done or patience.stops(done):
            continue
        model = network.model(frozen, training.fed)
        compile_model(model, spec.label_smoothing, optimizer, experiment.data.augmentation.mixes)
        if watch is None:
            training.say_what_trains(max(first, done), frozen)
        model.fit(
            batches,
            initial_epoch=max(first, done),
            epochs=end,
            shuffle=False,  # the batches are shuffled already
            validation_data=validation,
            class_weight=class_weight,
            verbose=1 if bar else 0,
            callbacks=callbacks,
        )
        if model.stop_training:
            break
    results = test_best(training, whole, run) if watch is None else {}
    curves.finish(results)


def test(experiment: ExperimentSpec, run: RunFolder) -> RunFolder:
    """Test the best checkpoint of a run once more; returns the run's folder."""
    pretrained = recorded_pretrained(experiment.model.backbone, experiment.image_size, run)
    training = Training(experiment, pretrained)
    refuse_other_images(training.dataset, run, resuming=False)
    test_best(training, training.network.model(), run)
    return run


def build(experiment: ExperimentSpec, num_classes: int) -> keras.Model:
    """The model of an experiment before its training."""
    spec = experiment.model
    pretrained = None
    if spec.backbone is not None:
        pretrained = load_pretrained(spec.backbone, experiment.image_size, spec.resolved_semantics)
    network = build_layers(experiment, num_classes, pretrained)
    if spec.init_from is not None:
        load_network(network.tensors(), Path(spec.init_from).expanduser())
    return network.model(pretrained.plan.frozen_layers(0) if pretrained else 0)


def build_layers(experiment: ExperimentSpec, num_classes: int, pretrained: Pretrained | None) -> Network:
    """All layers as the experiment's seed draws them."""
    prepare_keras(experiment.trainer.precision, experiment.seed_everything)
    size = experiment.image_size
    plan = plan_model(experiment, num_classes, pretrained.plan if pretrained else None)
    return Network(plan, pretrained, size, experiment.model.resolved_semantics)


class Training:
    """What an experiment comes down to in Keras.

    Attributes:
        dataset: the images.
        network: the layers.
        stages: (first epoch, epoch after the last, frozen layers), one after the other.
        fed: the lowest layers of the backbone, which never train: their features are computed once.
    """

    def __init__(self, experiment: ExperimentSpec, pretrained: Pretrained | None) -> None:
        self.experiment = experiment
        epochs = experiment.trainer.max_epochs
        self.dataset = load_dataset(experiment.data, pretrained.normalization if pretrained else None)
        self.network = build_layers(experiment, len(self.dataset.class_names), pretrained)
        self.stages = pretrained.plan.stages(epochs) if pretrained else [(0, epochs, 0)]
        self.fed = pretrained.plan.always_frozen if pretrained else 0
        if self.fed and experiment.data.augmentation != AugmentationSpec():
            say_features_are_not_kept(self.fed)
            self.fed = 0
        self.preprocess = self.network.preprocess(self.dataset.normalization)

    def batches(self) -> TrainingBatches:
        dataset, experiment = self.dataset, self.experiment
        return TrainingBatches(
            dataset.train,
            len(dataset.class_names),
            experiment.data,
            self.preprocess,
            experiment.seed_everything,
            self._features("train"),
        )

    def evaluation(self, part: str) -> EvaluationBatches:
        return EvaluationBatches(self.dataset.parts[part], self.experiment.data, self.preprocess, self._features(part))

    def _features(self, part: str) -> np.ndarray | None:
        backbone = self.network.backbone
        if backbone is None or not self.fed:
            return None
        precision = self.experiment.trainer.precision
        return kept_features(precision, backbone, self.fed, self.experiment.data, self.dataset, part)

    @property
    def steps(self) -> int:
        """Of the optimizer in an epoch."""
        batches = self.experiment.data.batches_per_epoch(len(self.dataset.train.labels))
        return self.experiment.trainer.steps_per_epoch(batches)

    def optimizer(self, rates: np.ndarray) -> keras.optimizers.Optimizer:
        """One for all, or one for each group of layers that trains at a rate or from an epoch of its own.

        Args:
            rates: the learning rate of every step.
        """
        spec, trainer = self.experiment.model.optimizer, self.experiment.trainer
        clip, batches = trainer.gradient_clip_val, trainer.accumulate_grad_batches
        plateau = self.experiment.model.reduce_on_plateau is not None
        backbone = self.network.backbone
        if backbone is None:
            return build_optimizer(spec, rates, clip, self.network.head.trainable_variables, plateau, batches)
        groups = parameter_groups(self.network, backbone.plan, self.steps)
        groups = [group for group in groups if group.start < len(rates)]
        return GroupedOptimizer(spec, rates, clip, groups, plateau, batches)

    def say_what_trains(self, epoch: int, frozen: int) -> None:
        backbone = self.network.backbone
        if backbone is not None:
            counts = count_parameters(self.network)
            numbers = counts["trainable_parameters"], counts["frozen_parameters"]
            print(freezing_line(epoch, self.experiment.trainer.max_epochs, *numbers, backbone.plan, frozen), flush=True)


def compile_model(
    model: keras.Model, label_smoothing: float, optimizer: keras.optimizers.Optimizer | None, mixed: bool = False
) -> None:
    """Optimizer, loss and metrics. Metrics are running means over the epoch's images.

    ``mixed``: whether the training images are; then the training's targets are shares of the classes.
    """
    on_jax = keras.config.backend() == "jax"
    dtype = None if on_jax else "float64"  # sums over many images; JAX has no float64 unless told at its start
    loss = training_loss(label_smoothing, model.output_shape[-1], mixed)
    metrics = [
        Accuracy(model.output_shape[-1], dtype=dtype),
        CrossEntropy(name="cross_entropy", from_logits=True, dtype=dtype),
    ]
    if label_smoothing or mixed:
        metrics.append(keras.metrics.MeanMetricWrapper(loss.call, name="training_loss", dtype=dtype))
    model.compile(
        optimizer=optimizer,
        loss=loss,
        metrics=metrics,
        jit_compile=on_jax,  # without it JAX runs operation by operation; TensorFlow compiles graphs anyway
    )
    # Now and not in the first step, which TensorFlow would trace twice, the metrics get their variables.
    model.compute_metrics(None, np.zeros(1, np.int64), keras.ops.zeros((1, model.output_shape[-1])))
    model.reset_metrics()


def test_best(training: Training, whole: keras.Model, run: RunFolder) -> dict[str, float]:
    """Load the best checkpoint, write its test results into the run folder, and return what TESTED names."""
    checkpoint = run.checkpoint("best")
    whole.load_weights(checkpoint)
    test = training.dataset.test
    model = training.network.model(training.stages[-1][2], training.fed)
    logits = model.predict(training.evaluation("test"), verbose=0).astype(keras.config.floatx())
    matrix = confusion(test.labels, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(test.labels, logits)
    results = {"test_loss": float(loss), "test_acc": float(np.trace(matrix) / matrix.sum())}
    results |= {f"test_{name}": value for name, value in macro_scores(matrix).items()}
    run.write_test(checkpoint, test.labels, logits.astype(np.float32), results)
    if training.experiment.report:
        picture_mistakes(run, test.images, training.network, training.preprocess)
    return results
