"""The Keras reference by itself; that it agrees with the Lightning side is for parity_tests to show.

Trainings are processes of their own, as users start them. The rest runs here: keras_reference sees to it that
TensorFlow and torch can share a process.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from conftest import CONFIGS, history_without_seconds, printed_by, run_here, run_in, wandb_records
from PIL import Image
from scipy.stats import kstest, uniform
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, recall_score

from keras_reference import cli
from keras_reference.command_line import read_command
from keras_reference.splitmix64 import as_words
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.network_plan import NetworkPlan, plan_network
from lightning_vgg.experiment.schedule import rate_factors
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import AugmentationSpec, DataSpec, NetworkSpec, OptimizerSpec, ScheduleSpec
from lightning_vgg.images.batches import Normalization, cut_batch
from lightning_vgg.images.dataset import Split, load_dataset
from lightning_vgg.runs.folder import MEASURED, TESTED, RunFolder

SHORT = f"""
    -c {CONFIGS}/quickstart.yaml --trainer.max_epochs 2 --data.train_images 300 --data.eval_batch_size 100
    --model.label_smoothing 0.1 --model.schedule.name cosine
""".split()


def record_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which one fit has run; output.txt has what it printed, and which packages it had loaded."""
    folder = tmp_path_factory.mktemp("keras")
    code = (
        "import sys\nfrom keras_reference.cli import run\nstatus = run(sys.argv[1:])\n"
        "print('loaded', *sorted({'torch', 'lightning', 'tensorflow'} & set(sys.modules)))\nsys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "fit", *SHORT, "--name", "first"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "output.txt").write_text(result.stdout)
    assert "Traceback" not in result.stderr and "Warning:" not in result.stderr, result.stderr
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    return folder / "runs" / "quickstart" / "first"


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_fit_leaves_a_whole_run_folder(first: Path) -> None:
    assert sorted(path.name for path in first.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "curves.png",
        "history.csv",
        "run.json",
        "test_predictions.npz",
        "val_classes.csv",
        "wandb",
    ]
    assert sorted(path.name for path in (first / "checkpoints").iterdir()) == ["best.weights.h5", "last.npz"]
    with Image.open(first / "curves.png") as picture:
        assert picture.size == (1600, 700)
    with (first / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "9"), ("2", "18")]  # 270 images, 32 a step
    assert all(float(row[column]) > 0 for row in rows for column in row)
    rates = 0.004 * rate_factors(ScheduleSpec("cosine", factor=0), 18)
    assert [float(row["learning_rate"]) for row in rows] == [rates[8], rates[17]]


def test_fit_says_an_epoch_a_line_and_which_checkpoint_it_tested(folder: Path, first: Path) -> None:
    record = record_of(first)
    lines = (folder / "output.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/2", "2/2"]
    assert f"test_acc {record['test_acc']:.2%}  test_loss {record['test_loss']:.4f}  of {record['checkpoint']}" in lines
    assert Path(record["checkpoint"]).name == "best.weights.h5"


def test_neither_torch_nor_lightning_is_loaded(folder: Path) -> None:
    assert (folder / "output.txt").read_text().splitlines()[-1] == "loaded tensorflow"


def test_recorded_test_results_equal_those_of_scikit_learn(first: Path) -> None:
    record = record_of(first)
    with np.load(first / "test_predictions.npz") as arrays:
        labels, logits = arrays["labels"], arrays["logits"]
    assert (labels.dtype, logits.dtype, logits.shape) == (np.int64, np.float32, (360, 10))
    assert record["test_acc"] == accuracy_score(labels, logits.argmax(1))
    assert record["test_acc_per_class"] == pytest.approx(recall_score(labels, logits.argmax(1), average=None))
    assert record["test_balanced_acc"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert record["test_macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    assert record["test_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)  # without label smoothing


@pytest.mark.slow
def test_both_frameworks_read_each_others_runs_and_the_same_seed_gives_the_same_history(
    folder: Path, first: Path, tmp_path: Path
) -> None:
    run_here(tmp_path)(f"fit -c {first}/config.yaml --name lightning --trainer.logger false")
    lightning = tmp_path / "runs" / "quickstart" / "lightning"
    run_here(tmp_path, "keras-reference")(f"fit -c {lightning}/config.yaml --name again")
    again = tmp_path / "runs" / "quickstart" / "again"
    assert history_without_seconds(again) == history_without_seconds(first)
    assert (lightning / "history.csv").read_text().splitlines()[0] == (first / "history.csv").read_text().split("\n")[0]
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (first, lightning, again)]
    assert configs[0]["model"] == configs[1]["model"] == configs[2]["model"]
    ours, theirs = record_of(first), record_of(lightning)
    assert set(ours) == {*theirs, "backend", "wandb_id"}  # Lightning logged nothing to W&B
    same = ("precision", "seed", "data_fingerprint", "class_names", "normalization", "images", "parameters", "device")
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert (ours["framework"], ours["backend"]) == ("keras", "tensorflow")
    assert set(ours["versions"]) == {"python", "keras", "tensorflow"}
    assert not (again / "wandb").exists()  # Lightning's run had none


def test_test_repeats_the_results(first: Path, tmp_path: Path) -> None:
    before = record_of(first)
    said = run_here(tmp_path, "keras-reference")(f"test -c {first}/config.yaml").stdout
    assert f"test_acc {before['test_acc']:.2%}" in said
    assert record_of(first) == before


def test_export_writes_the_best_weights(first: Path, tmp_path: Path, keras: Any) -> None:
    from keras_reference.data import EvaluationBatches, normalizer
    from keras_reference.export import load_classifier
    from keras_reference.transfer import Network
    from keras_reference.weights import load_network, network_tensors

    assert cli.run(["export", str(first), "--output", str(tmp_path / "weights.safetensors")]) == 0
    config, _ = read_command("fit", ["-c", str(first / "config.yaml")])
    plan = plan_network(config.model.network, config.data.image_size, num_classes=10)
    network = Network(plan, None, config.data.image_size)
    load_network(network.tensors(), tmp_path / "weights.safetensors")
    model = network.model()
    kernel = model.get_layer("block1_conv1").kernel
    best = network_tensors(load_classifier(RunFolder(first)).tensors())
    np.testing.assert_array_equal(kernel, best["block1.conv1.weight"].transpose(2, 3, 1, 0))
    dataset = load_dataset(config.data)
    preprocess = normalizer(dataset.normalization, "float32")
    batches = EvaluationBatches(dataset.test, config.data, preprocess)
    with np.load(first / "test_predictions.npz") as arrays:
        np.testing.assert_allclose(model.predict(batches, verbose=0), arrays["logits"], rtol=1e-5, atol=1e-5)
    # The history's best validation results are those weights', without label smoothing.
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    batches = EvaluationBatches(dataset.val, config.data, preprocess)
    row = max(RunFolder(first).read_history(), key=lambda row: row["val_acc"])
    assert model.evaluate(batches, verbose=0) == pytest.approx([row["val_loss"], row["val_acc"]], rel=1e-5)
    predicted = model.predict(batches, verbose=0).argmax(1)
    assert row["val_balanced_acc"] == pytest.approx(balanced_accuracy_score(dataset.val.labels, predicted))
    assert row["val_macro_f1"] == pytest.approx(f1_score(dataset.val.labels, predicted, average="macro"))


def test_wandb_has_the_names_and_steps_of_lightnings_logger(first: Path) -> None:
    records = wandb_records(first)
    points = [record["history"]["item"] for record in records if record["type"] == "history"]
    with (first / "history.csv").open() as csv_file:
        rows = list(csv.DictReader(csv_file))
    for name in MEASURED:
        curve = [(point["epoch"], point["trainer/global_step"], point[name]) for point in points if name in point]
        assert curve == [(int(row["epoch"]) - 1, int(row["step"]) - 1, float(row[name])) for row in rows], name
    assert {key: points[-1][key] for key in ("epoch", "trainer/global_step", *TESTED)} == {
        "epoch": 2,
        "trainer/global_step": 18,
        **{key: record_of(first)[key] for key in TESTED},
    }
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert (run["job_type"], run["run_group"], run["display_name"]) == ("keras", "quickstart", "first")
    saved = yaml.safe_load((first / "config.yaml").read_text())
    assert {key: value for key, value in run["config"]["update"].items() if key != "_wandb"} == saved
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    assert [metric.get("name") or metric["glob_name"] for metric in metrics] == ["trainer/global_step", "*"]


@pytest.mark.slow
def test_other_backends_train_too_and_without_validation_images_the_last_epoch_counts(tmp_path: Path) -> None:
    fit = "fit --data.validation_fraction 0 --data.train_images 100 --trainer.precision bf16-mixed --name torch"
    output = run_in(tmp_path, "keras-reference")(fit, *SHORT, "--report", "true", KERAS_BACKEND="torch").stdout
    run = tmp_path / "runs" / "quickstart" / "torch"
    record = record_of(run)
    assert record["backend"] == "torch" and "torch" in record["versions"]
    assert record["images"]["val"] == 0
    page = (run / "report.html").read_text()
    assert "Without Grad-CAM: the Keras reference computes it on TensorFlow alone, and not on torch." in page
    assert "<img" in page
    with (run / "history.csv").open() as file:
        assert [(row["val_loss"], row["val_acc"]) for row in csv.DictReader(file)] == [("", "")] * 2
    assert "val_" not in output
    best: list[np.ndarray] = []
    with h5py.File(run / "checkpoints" / "best.weights.h5") as file:
        file.visititems(lambda name, item: best.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    with np.load(run / "checkpoints" / "last.npz") as state:
        assert state["epoch"] == 2
        last = [state[name] for name in state.files if name.startswith("arr_")]
    kernels = [value for value in best if value.ndim > 1]
    assert kernels and all(any(np.array_equal(kernel, value) for value in last) for kernel in kernels)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fitt"], "unknown command 'fitt'"),
        (["fit", "--model.semantics", "torch"], "does not implement model.semantics: torch; leave it at keras"),
        (["fit", "--model.semantics_except", "[adam_formula]"], "model.semantics_except: [adam_formula]"),
        (["fit", "--model.semantics_except", "[initialization, adam_formula]"], "[initialization, adam_formula]"),
        (["fit", "--model.channels_last", "false"], "does not implement model.channels_last: false; leave it at true"),
        (["fit", "--model.tricks.lookahead", "true"], "does not implement model.tricks.lookahead: true"),
        (
            ["fit", "--model.optimizer.name", "sgd", "--model.tricks.muon_rate", "0.2"],
            "does not implement model.tricks.muon_rate: 0.2",
        ),
        (
            ["fit", "--model.tricks.whitening", "true"],
            "does not implement model.tricks.whitening: true; leave it at false",
        ),
        (["fit", "--model.compile", "true"], "does not implement model.compile: true; leave it at false"),
        (["fit", "--trainer.precision", "16-mixed"], "trainer.precision: 16-mixed; set it to 32-true or 64-true or b"),
        (["fit", "--trainer.max_epochs", "0"], "trainer.max_epochs must be at least 1"),
        (["fit", "--trainer.max_step", "9"], "--trainer.max_step; did you mean 'trainer.max_epochs'?"),
        (["fit", "-c", "trainer.yaml"], "Of the trainer's settings the Keras reference implements max_epochs, p"),
        (["fit", "-c", "typo.yaml"], "line 3: unknown key 'model.network.filtres'; did you mean 'model."),
        (["fit", "--model.network.filters", "[8,8,8,8,8,8]"], "block6 (conv"),
        (["fit", *SHORT, "--model.init_from", "typo.yaml"], "typo.yaml is not a safetensors file"),
        (["test"], "there is no trained run in runs/vgg"),
        (["test", "-c", "lightning/config.yaml"], "lightning was trained by lightning, not by Keras"),
        (["export", "lightning"], "lightning was trained by lightning, not by Keras"),
    ],
)
def test_what_the_user_can_mend_is_said_by_name_and_before_anything_is_written(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typo.yaml").write_text("model:\n  network:\n    filtres: [1]\n")
    (tmp_path / "trainer.yaml").write_text("trainer:\n  devices: 2\n")
    run = RunFolder(tmp_path / "lightning")
    run.write_config("experiment: vgg\n")
    run.update_record(framework="lightning")
    run.checkpoints.mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert cli.run(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-reference: error: ")
    assert complaint in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["test", "--help"], ["export", "--help"]])
def test_help_loads_no_framework(arguments: list[str]) -> None:
    """Nor anything else that takes long; benchmarks/startup.py measures the seconds."""
    code = (
        "import sys, contextlib\nfrom keras_reference.cli import run\n"
        f"with contextlib.suppress(SystemExit): run({arguments})\n"
        "heavy = {'torch', 'lightning', 'keras', 'tensorflow', 'wandb', 'sklearn', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = printed_by(code)
    assert "usage: keras-reference" in output
    assert output.endswith("[]\n")


# --- weights ----------------------------------------------------------------------------------------------------------

NETWORKS = {
    "lesson": NetworkSpec(filters=[3, 4], units=[5]),
    "batch norm first": NetworkSpec(filters=[3], dense_block="batch norm - dropout - dense", units=[5, 4]),
    "no biases": NetworkSpec("conv(no bias) - batch norm - relu - maxpool", [3], "dense(no bias) - batch norm", [5]),
    "global average pool": NetworkSpec("conv - global average pool", [3], "batch norm - dense", [5]),
    "no dense block": NetworkSpec("conv(stride 2) - average pool", [3], units=[]),
    "no convolutional block": NetworkSpec(filters=[], units=[5]),
}


def random_tensors(plan: NetworkPlan, dtype: str) -> dict[str, np.ndarray]:
    """Under the neutral names, in the neutral shapes; made from the plan alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for planned in plan.layers:
        inputs = planned.input_shape[-1]
        match type(planned.layer).__name__:
            case "Conv":
                shapes[f"{planned.name}.weight"] = (planned.width, inputs, 3, 3)
            case "Dense":
                shapes[f"{planned.name}.weight"] = (planned.width, inputs)
            case "BatchNorm":
                shapes |= {f"{planned.name}.{end}": (inputs,) for end in ("weight", "running_mean", "running_var")}
            case _:
                continue
        if getattr(planned.layer, "bias", True):
            shapes[f"{planned.name}.bias"] = (planned.width,)
    generator = np.random.default_rng(0)
    return {name: generator.uniform(0.1, 1, shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("network", NETWORKS)
def test_weights_go_in_and_out_to_the_last_bit(network: str, precision: str, keras: Any) -> None:
    from keras_reference.backend import prepare_keras
    from keras_reference.blocks import build_network
    from keras_reference.weights import load_tensors, model_tensors, network_tensors

    prepare_keras(precision, seed=0)
    plan = plan_network(NETWORKS[network], image_size=8, num_classes=3)
    model = build_network(plan)
    tensors = random_tensors(plan, keras.config.floatx())
    load_tensors("a file", model_tensors(model, plan), tensors)
    found = network_tensors(model_tensors(model, plan))
    assert set(found) == set(tensors)
    for name in tensors:
        assert found[name].dtype == tensors[name].dtype
        np.testing.assert_array_equal(found[name], tensors[name], strict=True)
    counted = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert counted == plan.trainable_parameters


def test_dense_layers_and_batch_norms_behind_the_flatten_count_channels_first_in_the_file(keras: Any) -> None:
    """Computed anew by numpy from the file's tensors."""
    from keras_reference.backend import prepare_keras
    from keras_reference.blocks import build_network
    from keras_reference.weights import load_tensors, model_tensors

    prepare_keras("64-true", seed=0)
    plan = plan_network(NETWORKS["batch norm first"], image_size=8, num_classes=3)
    model = build_network(plan)
    tensors = random_tensors(plan, "float64")
    load_tensors("a file", model_tensors(model, plan), tensors)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3))
    pixels = keras.Model(model.input, model.get_layer("flatten").input)(images)
    vectors = np.asarray(pixels).transpose(0, 3, 1, 2).reshape(2, -1)
    for head in ("head1", "head2"):
        norm = {end: tensors[f"{head}.batch_norm1.{end}"] for end in ("weight", "bias", "running_mean", "running_var")}
        vectors = (vectors - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-3) * norm["weight"] + norm["bias"]
        vectors = np.maximum(vectors @ tensors[f"{head}.dense1.weight"].T + tensors[f"{head}.dense1.bias"], 0)
    logits = vectors @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(model(images, training=False), logits, rtol=1e-13)


def test_convolutions_have_torchs_layout_in_the_file(keras: Any) -> None:
    from keras_reference.blocks import build_network
    from keras_reference.weights import load_tensors, model_tensors

    plan = plan_network(NetworkSpec("conv(linear)", [2], units=[]), image_size=4, num_classes=2)
    model = build_network(plan)
    tensors = {name: np.zeros_like(tensor) for name, tensor in random_tensors(plan, "float32").items()}
    tensors["block1.conv1.weight"][1, 2, 0, 1] = 1  # second filter: the third channel of the pixel above
    load_tensors("a file", model_tensors(model, plan), tensors)
    images = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    found = np.asarray(keras.Model(model.input, model.get_layer("block1_conv1").output)(images))
    np.testing.assert_array_equal(found[:, 1:, :, 1], images[:, :-1, :, 2])
    assert not found[..., 0].any() and not found[:, 0].any()


def test_keras_can_start_as_pytorch_does(keras: Any) -> None:
    """Kernels and biases of its convolutions and dense layers are U(±1/√fan_in); a word of the recipe comes before."""
    from keras_reference.blocks import build_network

    spec = NetworkSpec("conv(5x5) - conv(he normal, no bias) - maxpool", [512], "dense", [1000])
    plan = plan_network(spec, image_size=2, num_classes=10)
    keras.utils.set_random_seed(0)
    model = build_network(plan, replace(KERAS, initialization="kaiming_uniform"))
    for name, fan_in in {"block1_conv1": 3 * 5 * 5, "head1_dense1": 512}.items():
        for weights in model.get_layer(name).get_weights():
            assert kstest(weights.ravel() * math.sqrt(fan_in), uniform(-1, 2).cdf).pvalue > 0.01
            assert np.abs(weights).max() * math.sqrt(fan_in) <= 1
    (kernel,) = model.get_layer("block1_conv2").get_weights()
    assert kernel.std() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)


def test_weights_that_do_not_fit_are_named_with_both_shapes(keras: Any) -> None:
    from keras_reference.blocks import build_network
    from keras_reference.weights import load_tensors, model_tensors

    plan = plan_network(NETWORKS["lesson"], image_size=8, num_classes=3)
    tensors = random_tensors(plan, "float32")
    del tensors["block1.conv1.bias"]
    tensors |= {"classifier.weight": np.ones((9, 5), np.float32), "block9.conv1.weight": np.ones(7, np.float32)}
    model = build_network(plan)
    before = model.get_weights()
    with pytest.raises(ExperimentError) as error:
        load_tensors("a file", model_tensors(model, plan), tensors)
    assert "block1.conv1.bias is missing (the network has (3,))" in str(error.value)
    assert "classifier.weight is (9, 5), in the network (3, 5)" in str(error.value)
    assert "block9.conv1.weight (7,) is not in the network" in str(error.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# --- training ---------------------------------------------------------------------------------------------------------


def test_model_fit_gets_each_epochs_draws_in_order_and_whole(keras: Any) -> None:
    from keras_reference.callbacks import NextEpoch
    from keras_reference.data import EvaluationBatches, TrainingBatches, normalizer

    class Recorder(keras.Model):
        """Keeps what it is trained on."""

        def train_step(self, data: Any) -> dict[str, Any]:
            (images, mask_keys), labels = data
            seen.append([np.array(values) for values in (images, mask_keys, labels)])
            return {"loss": keras.ops.zeros(())}

        def call(self, inputs: Any) -> Any:
            return inputs[0]

    seen: list[list[np.ndarray]] = []
    generator = np.random.default_rng(0)
    part = Split(generator.integers(0, 256, (10, 8, 8, 3), np.uint8), np.arange(10))
    spec = DataSpec(image_size=8, batch_size=4, eval_batch_size=7, augmentation=AugmentationSpec(True, 2, 3))
    normalization = Normalization.of(part.images)
    preprocess = normalizer(normalization, "float32")
    batches = TrainingBatches(part, 10, spec, preprocess, seed=5)
    recorder = Recorder()
    recorder.compile(optimizer="sgd", run_eagerly=True)
    recorder.fit(batches, epochs=3, shuffle=False, verbose=0, callbacks=[NextEpoch(batches)])
    assert [len(labels) for _, _, labels in seen] == [4, 4, 2] * 3
    for epoch in range(3):
        draws = draw_epoch(5, epoch, 10, 8, spec.augmentation)
        of_epoch = zip(*seen[3 * epoch : 3 * epoch + 3], strict=True)
        images, mask_keys, labels = (np.concatenate(parts) for parts in of_epoch)
        np.testing.assert_array_equal(mask_keys, as_words(draws.mask_key), strict=True)
        np.testing.assert_array_equal(labels, part.labels[draws.index])
        np.testing.assert_array_equal(images, cut_batch(part.images, draws, 3, preprocess), strict=True)
    evaluation = EvaluationBatches(part, spec, preprocess)
    assert [len(evaluation[number][1]) for number in range(len(evaluation))] == [7, 3]
    np.testing.assert_array_equal(np.concatenate([evaluation[0][1], evaluation[1][1]]), part.labels)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.25])
def test_only_the_training_loss_is_smoothed(label_smoothing: float, keras: Any) -> None:
    from keras_reference.backend import prepare_keras
    from keras_reference.module import compile_model

    prepare_keras("64-true", seed=0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Activation("linear")])
    compile_model(model, label_smoothing, optimizer=None)
    logits, labels = np.random.default_rng(0).normal(size=(8, 3)), np.arange(8) % 3
    logs = model.evaluate(logits, labels, batch_size=3, verbose=0, return_dict=True)
    negative = np.log(np.exp(logits).sum(1, keepdims=True)) - logits
    targets = np.eye(3)[labels]
    assert logs["cross_entropy"] == pytest.approx((targets * negative).sum(1).mean(), rel=1e-14)
    smooth = targets * (1 - label_smoothing) + label_smoothing / 3
    assert logs["loss"] == pytest.approx((smooth * negative).sum(1).mean(), rel=1e-14)
    assert logs["acc"] == (logits.argmax(1) == labels).mean()


def test_adamw_in_float64_is_exact_with_a_moving_rate_clipping_and_spared_biases(keras: Any) -> None:
    """Against the formula in numpy: no constant goes through float32 on its way."""
    from keras_reference.backend import prepare_keras
    from keras_reference.optim import build_optimizer

    prepare_keras("64-true", seed=0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, bias_initializer="ones")])
    weights = {"kernel": model.get_weights()[0].ravel(), "bias": np.ones(1)}
    rates = np.array([0.1, 0.03, 0.007])
    spec = OptimizerSpec(name="adamw", beta1=0.9, beta2=0.999, weight_decay=0.1, decay_all=False)
    model.compile(build_optimizer(spec, rates, 0.3, model.trainable_variables), "mse", jit_compile=False)
    moments = {name: [np.zeros_like(value), np.zeros_like(value)] for name, value in weights.items()}
    inputs, target = np.array([[0.3, -1.7]]), np.array([[2.9]])
    for step, rate in enumerate(rates, start=1):
        model.train_on_batch(inputs, target)
        slope = 2 * (inputs[0] @ weights["kernel"] + weights["bias"][0] - target[0, 0])
        gradients = {"kernel": slope * inputs[0], "bias": np.array([slope])}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        assert norm > 0.3
        weights["kernel"] = weights["kernel"] * (1 - rate * 0.1)
        for name, gradient in gradients.items():
            mean, square = moments[name]
            mean += (gradient * 0.3 / norm - mean) * (1 - 0.9)
            square += ((gradient * 0.3 / norm) ** 2 - square) * (1 - 0.999)
            corrected = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            weights[name] = weights[name] - corrected * mean / (np.sqrt(square) + 1e-7)
    np.testing.assert_allclose(model.get_weights()[0].ravel(), weights["kernel"], rtol=1e-13)
    np.testing.assert_allclose(model.get_weights()[1], weights["bias"], rtol=1e-13)


def test_the_rate_table_stays_at_its_last_rate(keras: Any) -> None:
    from keras_reference.optim import RateTable

    table = RateTable(np.array([0.5, 0.25]))
    assert [float(table(step)) for step in range(4)] == [0.5, 0.25, 0.25, 0.25]
