"""Transfer learning on small networks of this project: freezing, features that are kept, unfreezing, resuming."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BIN, CONFIGS, Command, history_without_seconds, only_run, run_here
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import vgg16

from lightning_vgg.api import extract_features
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import (
    AugmentationSpec,
    BackboneSpec,
    DataSpec,
    ExperimentSpec,
    ModelSpec,
    NetworkSpec,
    OptimizerSpec,
    ScheduleSpec,
    TricksSpec,
)
from lightning_vgg.images.sources import load_images
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.training.callbacks import RunRecorder
from lightning_vgg.training.data import ImageData
from lightning_vgg.training.export import load_classifier
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.optim import ParameterGroup, build_optimizer
from lightning_vgg.training.pretrained import load_pretrained
from lightning_vgg.training.transfer import Backbone, count_parameters, parameter_groups
from lightning_vgg.weights.feature_store import remember_features

HEAD = NetworkSpec(filters=[], units=[12], dense_block="dense - dropout")
ALL = {"layer": "block3_pool", "freeze_until": "all"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a network of three blocks with batch norm and dropout."""
    folder = tmp_path_factory.mktemp("source")
    run_here(folder)(f"""
        fit -c {CONFIGS}/quickstart.yaml --model.network.filters [8,8,16] --trainer.max_epochs 2
        --data.train_images 300 --name source --trainer.logger false
    """)
    return only_run(folder)


@pytest.fixture
def data(tmp_path: Path) -> DataSpec:
    """Sixty training images, and a cache of its own."""
    return DataSpec(source="digits", train_images=60, batch_size=16, cache_dir=str(tmp_path / "cache"))


def backbone_spec(source: Path, **settings: Any) -> BackboneSpec:
    return BackboneSpec(weights=str(source), **{"layer": "block3_pool", **settings})


def model_spec(source: Path, optimizer: OptimizerSpec | None = None, **settings: Any) -> ModelSpec:
    return ModelSpec(
        network=HEAD,
        backbone=backbone_spec(source, **settings),
        optimizer=optimizer or OptimizerSpec(learning_rate=0.01),
        schedule=ScheduleSpec("cosine", warmup=0.1),
    )


def built(spec: ModelSpec) -> VGGClassifier:
    seed_everything(1, verbose=False)
    return VGGClassifier(ExperimentSpec(model=spec), 10)


def test_tricks_of_initialization_leave_a_pretrained_backbone_as_it_is(source: Path) -> None:
    plain, tricky = (
        built(replace(model_spec(source), tricks=TricksSpec(identity_initialization=tricks)))
        for tricks in (False, True)
    )
    for name, tensor in plain.network.get_submodule("backbone").state_dict().items():
        assert torch.equal(tricky.network.get_submodule("backbone").state_dict()[name], tensor), name


def fit(
    spec: ModelSpec,
    data: DataSpec,
    folder: Path,
    epochs: int = 2,
    resume: Path | None = None,
    *callbacks: Callback,
    **settings: Any,
) -> tuple[VGGClassifier, Trainer]:
    """Train as the command line does, in this process."""
    model = built(spec)
    assert model.pretrained is not None
    images = ImageData(ExperimentSpec(seed_everything=1, data=data), model.pretrained.normalization)
    recorder = RunRecorder(RunFolder(folder), validated=True, echo=False)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*callbacks, recorder],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **settings,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        trainer.fit(model, images, ckpt_path=str(resume) if resume else None)
    return model, trainer


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# --- the backbone -----------------------------------------------------------------------------------------------------


def test_a_run_is_taken_over_with_its_statistics_and_its_normalization(source: Path) -> None:
    run = RunFolder.open(source)
    trained = load_classifier(run)
    model = built(model_spec(source))
    assert model.pretrained is not None and model.backbone is not None
    record = run.read_record()["normalization"]
    assert list(model.pretrained.normalization.mean) == record["mean"]
    assert list(model.backbone._modules)[:6] == [
        "block1_conv1",
        "block1_batch_norm1",
        "block1_conv2",
        "block1_pool",
        "block1_dropout1",
        "block2_conv1",
    ]
    statistics = model.backbone.get_submodule("block2_batch_norm1")
    assert torch.equal(statistics.running_var, trained.network.get_submodule("block2.batch_norm1").running_var)
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        # Up to the last block's pooling, which the trained network follows by dropout, off in evaluation.
        assert torch.equal(model.eval().backbone(images), trained.network[:3](images))


def test_a_frozen_backbone_is_the_same_bit_for_bit_in_training_and_evaluation_mode(source: Path) -> None:
    model = built(model_spec(source, **ALL))
    before = tensors(model.network)
    images = torch.randn(6, 3, 32, 32)
    assert torch.equal(model.train().backbone(images), model.eval().backbone(images))
    model.train()
    for _ in range(3):
        model(images).sum().backward()
    assert_equal(tensors(model.network), before)
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert not any(module.training for module in model.backbone.children())
    assert model.network.get_submodule("head1").training


def test_frozen_layers_take_no_part_in_the_backward_pass(source: Path) -> None:
    model = built(model_spec(source, freeze_until="block2_pool")).train()
    seen: list[tuple[str, bool]] = []
    for name, layer in model.backbone.named_children():
        layer.register_forward_hook(lambda *call, name=name: seen.append((name, call[2].requires_grad)))
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    first = [name for name, _ in seen].index("block3_conv1")
    assert [grad for _, grad in seen] == [number >= first for number in range(len(seen))]
    for name, parameter in model.backbone.named_parameters():
        assert (parameter.grad is not None) == name.startswith("block3"), name


def test_what_is_not_frozen_trains_with_its_statistics_and_the_rest_stays(
    source: Path, data: DataSpec, tmp_path: Path
) -> None:
    spec = model_spec(source, freeze_until="block1_pool")
    before = tensors(built(spec).network)
    after = tensors(fit(spec, data, tmp_path / "run")[0].network)
    for name in set(before) - {name for name in before if name.endswith("num_batches_tracked")}:
        moved = not torch.equal(before[name], after[name])
        assert moved != name.startswith("backbone.block1_"), name


def test_a_run_on_a_backbone_is_a_source_itself(source: Path, data: DataSpec, tmp_path: Path, command: Command) -> None:
    command(f"""
        fit --data.source digits --data.train_images 60 --trainer.max_epochs 1 --trainer.logger false --name a
        --data.cache_dir {data.cache_dir} --model.network.filters [] --model.backbone.layer block2_pool
        --model.backbone.weights {source} --model.backbone.freeze_until null
    """)
    first = load_classifier(RunFolder.open(tmp_path / "runs" / "vgg" / "a"))
    spec = backbone_spec(tmp_path / "runs" / "vgg" / "a", layer="block1_pool")
    pretrained = load_pretrained(spec, 32, KERAS)
    assert torch.equal(Backbone(pretrained).block1_conv1.weight, first.backbone.block1_conv1.weight)
    assert pretrained.description["weights"] == "vgg/a"


def test_weights_do_not_change_the_chance_of_the_head(source: Path, tmp_path: Path) -> None:
    """The head's first weights depend on the seed alone, so schemes can be compared."""
    heads = [
        built(model_spec(source, layer=layer, pooling="average")).network.get_submodule("classifier").weight
        for layer in ("block3_pool", "block3_conv1")
    ]
    assert torch.equal(*heads)


# --- features ---------------------------------------------------------------------------------------------------------


def kept(data: DataSpec) -> list[Path]:
    assert data.cache_dir is not None
    return sorted(Path(data.cache_dir).glob("features-*/features.npy"))


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches whose features are computed."""
    batches: list[int] = []
    compute = Backbone.features

    def counted(self: Backbone, images: torch.Tensor, layers: int) -> torch.Tensor:
        batches.append(len(images))
        return compute(self, images, layers)

    monkeypatch.setattr(Backbone, "features", counted)
    return batches


def test_features_are_computed_once_for_all_images_and_a_second_run_computes_nothing(
    source: Path, data: DataSpec, tmp_path: Path, extracted: list[int]
) -> None:
    first, trainer = fit(model_spec(source, **ALL), data, tmp_path / "a", epochs=3)
    trainer.test(first, datamodule=trainer.datamodule, verbose=False)
    assert sum(extracted) == 60 + 360
    written = [(path, path.stat().st_mtime_ns) for path in kept(data)]
    assert [len(np.load(path)) for path, _ in written].__len__() == 3
    extracted.clear()
    second, trainer = fit(model_spec(source, **ALL), data, tmp_path / "b", epochs=3)
    trainer.test(second, datamodule=trainer.datamodule, verbose=False)
    assert extracted == []
    assert [(path, path.stat().st_mtime_ns) for path in kept(data)] == written
    assert_equal(tensors(first.network), tensors(second.network))
    results = [RunFolder(tmp_path / name).read_record()["test_loss"] for name in "ab"]
    assert results[0] == results[1]


def test_another_head_uses_the_same_features(
    source: Path, data: DataSpec, tmp_path: Path, extracted: list[int]
) -> None:
    fit(model_spec(source, **ALL), data, tmp_path / "a")
    extracted.clear()
    linear = replace(model_spec(source, **ALL), network=replace(HEAD, units=[]))
    fit(linear, replace(data, batch_size=20), tmp_path / "b")
    assert extracted == []


@pytest.mark.parametrize("change", ["layer", "pooling", "image_size", "images", "weights", "precision"])
def test_whatever_the_features_depend_on_makes_others(
    change: str, source: Path, data: DataSpec, tmp_path: Path, extracted: list[int], command: Command
) -> None:
    spec = model_spec(source, **ALL, pooling="average")
    fit(spec, data, tmp_path / "a", epochs=1)
    extracted.clear()
    settings: dict[str, Any] = {}
    assert spec.backbone is not None
    match change:
        case "layer":
            spec = model_spec(source, layer="block2_pool", pooling="average")
        case "pooling" | "image_size":
            value = {"pooling": "max", "image_size": 40}[change]
            spec = replace(spec, backbone=replace(spec.backbone, **{change: value}))
        case "images":
            data = replace(data, train_images=50)
        case "weights":
            command(f"fit -c {source}/config.yaml --name other --seed_everything 5 --trainer.max_epochs 1")
            spec = model_spec(only_run(tmp_path), **ALL, pooling="average")
        case "precision":
            settings = {"precision": "bf16-mixed"}  # whose features have the same type
    fit(spec, data, tmp_path / "b", 1, **settings)
    assert sum(extracted) == (50 if change == "images" else 60 + 360)


@pytest.mark.parametrize("freeze_until", ["all", "block2_pool", "block2_conv1"])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_what_is_made_of_features_is_what_is_made_of_images(
    freeze_until: str, precision: str, source: Path, data: DataSpec, tmp_path: Path
) -> None:
    spec = model_spec(source, freeze_until=freeze_until, image_size=40)
    model, trainer = fit(spec, data, tmp_path / "run", precision=precision)
    trainer.test(model, datamodule=trainer.datamodule, verbose=False)
    _, logits = RunFolder(tmp_path / "run").read_predictions()
    again, trainer = (
        built(spec),
        Trainer(accelerator="cpu", precision=precision, logger=False, enable_progress_bar=False),
    )
    again.to(model.dtype).load_state_dict(model.state_dict())
    again.configure_callbacks = list  # without UseFeatures, images go all the way
    images = trainer_data(data, again)
    trainer.test(again, datamodule=images, verbose=False)
    assert again.backbone.fed == 0
    from_images = torch.cat([part for _, part in again.test_outputs]).numpy()
    np.testing.assert_allclose(logits, from_images, rtol=0, atol=0)


def trainer_data(data: DataSpec, model: VGGClassifier) -> ImageData:
    assert model.pretrained is not None
    return ImageData(ExperimentSpec(seed_everything=1, data=data), model.pretrained.normalization)


def test_with_augmentation_nothing_is_kept_and_that_is_said(
    source: Path, data: DataSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = model_spec(source, **ALL)
    before = tensors(built(spec).backbone)
    model, _ = fit(spec, replace(data, augmentation=AugmentationSpec(flip=True)), tmp_path / "run")
    assert "features are not cached" in capsys.readouterr().out
    assert kept(data) == []
    assert_equal(tensors(model.backbone), before)


def test_all_features_are_of_evaluation_mode_also_of_layers_that_would_train(source: Path, tmp_path: Path) -> None:
    settings = {"data.source": "digits", "data.train_images": 60, "model.backbone.weights": str(source)}
    frozen, trained = (
        extract_features(
            settings,
            {
                "model.backbone.layer": "block3_pool",
                "model.backbone.freeze_until": until,
                "data.cache_dir": str(tmp_path / until),
            },
        )
        for until in ("all", "none")
    )
    for part in ("train", "test"):
        np.testing.assert_array_equal(frozen[part].features, trained[part].features)


DESCRIPTION = {"weights": "abc"}
KILLED = """
import sys, time, numpy as np
from pathlib import Path
from lightning_vgg.weights.feature_store import remember_features
def compute(rows):
    time.sleep(0.05)
    print(rows.start, flush=True)
    return np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] * np.ones(3, np.float32)
remember_features(Path(sys.argv[1]), {"weights": "abc"}, (100, 3), np.float32, compute, 10, flush_seconds=0)
"""


def ramp(calls: list[int]) -> Callable[[slice], np.ndarray]:
    def compute(rows: slice) -> np.ndarray:
        calls.append(rows.start)
        return np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] * np.ones(3, np.float32)

    return compute


def test_an_extraction_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "60":
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    calls: list[int] = []
    features = remember_features(tmp_path, DESCRIPTION, (100, 3), np.float32, ramp(calls), 10)
    np.testing.assert_array_equal(features, np.arange(100)[:, None] * np.ones(3))
    assert calls[0] in (50, 60, 70) and calls == list(range(calls[0], 100, 10))


def test_two_processes_at_once_compute_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(map(len, outputs)) == [0, 10]


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no progress", "another shape"])
def test_damaged_features_are_noticed(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remember_features(tmp_path, DESCRIPTION, (100, 3), np.float32, ramp([]), 10, flush_seconds=0)
    (path,) = tmp_path.glob("features-*/features.npy")
    contents = path.read_bytes()
    match damage:
        case "flipped":
            at = len(contents) - 100 * 12 + 45 * 12  # in image 45
            path.write_bytes(contents[:at] + bytes([contents[at] ^ 1]) + contents[at + 1 :])
        case "cut":
            path.write_bytes(contents[: len(contents) // 2])
        case "gone":
            path.unlink()
        case "no progress":
            (path.parent / "progress.json").write_text("{")
        case "another shape":
            np.save(path, np.zeros((100, 4), np.float32))
    calls: list[int] = []
    features = remember_features(tmp_path, DESCRIPTION, (100, 3), np.float32, ramp(calls), 10)
    np.testing.assert_array_equal(features, np.arange(100)[:, None] * np.ones(3))
    assert calls == list(range(40 if damage == "flipped" else 0, 100, 10))
    assert "damaged" in caplog.text


def test_nothing_can_get_into_kept_features(tmp_path: Path) -> None:
    features = remember_features(tmp_path, DESCRIPTION, (100, 3), np.float32, ramp([]), 50)
    torch.from_numpy(features).zero_()
    calls: list[int] = []
    again = remember_features(tmp_path, DESCRIPTION, (100, 3), np.float32, ramp(calls), 50)
    assert again[7, 0] == 7 and calls == []


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"take 4000000\.0 GB.*--data\.cache_dir"):
        remember_features(tmp_path, DESCRIPTION, (10**12, 1000), np.float32, ramp([]), 10)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match=r"name another folder by --data\.cache_dir"):
        remember_features(tmp_path / "file", DESCRIPTION, (10, 3), np.float32, ramp([]), 10)


# --- learning rates and unfreezing ------------------------------------------------------------------------------------


def test_every_block_has_its_own_rate_and_the_schedule_moves_all_of_them(
    source: Path, data: DataSpec, tmp_path: Path
) -> None:
    spec = model_spec(source, freeze_until="block1_conv1", rate_factor=0.5, layer_decay=0.25)
    model = built(spec)
    assert model.pretrained is not None
    rate_of = {}
    optimizer = build_optimizer(
        model.network, spec.optimizer, KERAS, parameter_groups(model.network, model.pretrained.plan)
    )
    names = {parameter: name for name, parameter in model.network.named_parameters()}
    for group in optimizer.param_groups:
        rate_of |= {names[parameter]: group["lr"] for parameter in group["params"]}
    assert rate_of.keys() == {name for name in names.values() if not name.startswith("backbone.block1_conv1")}
    for name, rate in rate_of.items():
        factor = {"backbone.block3": 0.5, "backbone.block2": 0.125, "backbone.block1": 0.03125}.get(name[:15], 1.0)
        assert rate == pytest.approx(0.01 * factor), name

    class Rates(Callback):
        seen: list[list[float]] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
            self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    trained, _ = fit(spec, data, tmp_path / "run", 2, None, Rates())
    rates = np.array(Rates.seen)
    np.testing.assert_allclose(rates / rates[:, :1], [[1, 0.03125, 0.125, 0.5]] * len(rates))
    np.testing.assert_allclose(rates[:, 0], trained.rates)
    assert len(set(trained.rates)) > 3


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_parameter_that_joins_later_moves_as_if_it_started_then(name: Any) -> None:
    """Step counts, velocities and decay begin with the first gradient; nothing moves before it."""
    spec = OptimizerSpec(name, learning_rate=0.1, momentum=0.9 if name == "sgd" else 0.0, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(8, 3, 4, generator=generator)
    early, late, alone = (torch.nn.Linear(4, 3, bias=False) for _ in range(3))
    alone.load_state_dict(late.state_dict())
    groups = [ParameterGroup([early.weight], 1.0), ParameterGroup([late.weight], 1.0)]
    both, single = build_optimizer(early, spec, KERAS, groups), build_optimizer(alone, spec, KERAS)
    before = late.weight.detach().clone()
    for step, gradient in enumerate(gradients):
        late.requires_grad_(step >= 5)

        def closure(gradient: torch.Tensor = gradient) -> None:
            """Gradients come inside the step, as a trainer has it."""
            for layer in (early, late, alone):
                layer.weight.grad = gradient.clone() if layer.weight.requires_grad else None

        if step == 5:
            assert torch.equal(late.weight, before)
        if step >= 5:
            single.step(closure)
        both.step(closure)
    assert torch.equal(late.weight, alone.weight)
    assert not torch.equal(late.weight, before)


UNFREEZE: dict[int, str | None] = {2: "block2_pool", 4: "block1_pool"}


def test_layers_are_unfrozen_by_the_epoch_and_the_counts_are_said(
    source: Path, data: DataSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Watch(Callback):
        moved: dict[int, set[str]] = {}  # noqa: RUF012

        def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
            self.before = tensors(module.backbone)

        def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
            after = tensors(module.backbone)
            self.moved[trainer.current_epoch] = {
                name.partition("_")[0] for name in after if not torch.equal(after[name], self.before[name])
            }

    fit(model_spec(source, unfreeze=UNFREEZE), data, tmp_path / "run", 6, None, Watch())
    top, more = {"block3"}, {"block2", "block3"}
    assert Watch.moved == {0: set(), 1: set(), 2: top, 3: top, 4: more, 5: more}
    said = [line for line in capsys.readouterr().out.splitlines() if "trainable parameters" in line]
    assert [line.split("/")[0].split()[1] for line in said] == ["1", "3", "5"]
    assert "(up to block3_pool)" in said[0] and "(up to block2_pool)" in said[1] and "(up to block1_pool)" in said[2]
    record = RunFolder(tmp_path / "run").read_record()
    model = built(model_spec(source, unfreeze=UNFREEZE))
    assert (
        record["trainable_parameters"] == count_parameters(model.network)["trainable_parameters"] == 256 * 12 + 12 + 130
    )
    assert record["frozen_parameters"] == sum(parameter.numel() for parameter in model.backbone.parameters())
    assert f"trainable parameters {record['trainable_parameters']:,}" in said[0]


class Interrupt(Callback):
    """Dies in the middle of an epoch, when so many are done."""

    def __init__(self, done: int) -> None:
        self.done = done

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        if trainer.current_epoch == self.done and trainer.fit_loop.epoch_loop.batch_idx == 1:
            raise InterruptedError


@pytest.mark.parametrize(
    "optimizer",
    [OptimizerSpec("adam", 0.01), OptimizerSpec("sgd", 0.05, momentum=0.9, nesterov=True, weight_decay=0.01)],
    ids=lambda optimizer: optimizer.name,
)
def test_a_run_resumed_around_each_unfreezing_ends_like_an_uninterrupted_one(
    optimizer: OptimizerSpec, source: Path, data: DataSpec, tmp_path: Path
) -> None:
    spec = model_spec(source, optimizer, unfreeze=UNFREEZE, rate_factor=0.5, layer_decay=0.5)
    whole = tensors(fit(spec, data, tmp_path / "whole", 6)[0].network)
    for done in (2, 3, 5):  # when the first unfreezing is due, between the two, and after both
        run = tmp_path / f"stopped{done}"
        with pytest.raises(InterruptedError):
            fit(spec, data, run, 6, None, Interrupt(done))
        resumed, trainer = fit(spec, data, run, 6, run / "checkpoints" / "last.ckpt")
        assert trainer.current_epoch == 6
        assert_equal(tensors(resumed.network), whole)


# --- the command line -------------------------------------------------------------------------------------------------

FLAGS = """
    --data.source digits --data.train_images 60 --data.batch_size 16 --trainer.logger false
    --model.network.filters [] --model.backbone.layer block3_pool
""".split()


@pytest.mark.slow
def test_a_killed_command_goes_on_and_other_commands_need_no_source(
    source: Path, command: Command, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(source, tmp_path / "source")
    flags = FLAGS + shlex.split("""
        --model.backbone.weights source --model.backbone.unfreeze '{2: block2_pool, 4: null}'
        --data.cache_dir cache --trainer.max_epochs 6
    """)
    whole = command("fit --name whole", *flags)
    assert "trainable parameters" in whole.stdout
    runs = tmp_path / "runs" / "vgg"
    process = subprocess.Popen(
        [BIN / "lightning-vgg", "fit", *flags, "--name", "killed"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (
        (runs / "killed" / "checkpoints" / "last.ckpt").exists() and len(history_without_seconds(runs / "killed")) > 2
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shutil.rmtree(tmp_path / "source")
    command("fit --name killed --ckpt_path last", *flags)
    assert history_without_seconds(runs / "killed") == history_without_seconds(runs / "whole")
    states = [load_classifier(RunFolder.open(runs / name), "last").state_dict() for name in ("killed", "whole")]
    assert_equal(*states)

    record = json.loads((runs / "whole" / "run.json").read_text())
    assert record["backbone"] | {"network": 0, "semantics": 0} == {
        "weights": f"{tmp_path.name}/source",
        "weights_sha256": record["backbone"]["weights_sha256"],
        "preprocessing": "its own",
        "layer": "block3_pool",
        "pooling": "flatten",
        "image_size": 32,
        "freeze_until": "all",
        "unfreeze": {"2": "block2_pool", "4": None},
        "network": 0,
        "semantics": 0,
    }
    assert f"test_acc {record['test_acc']:.2%}" in command("test", "-c", runs / "whole" / "config.yaml").stdout

    digits = load_images(DataSpec("digits"))
    for number in range(20):
        Image.fromarray(digits.test_images[number]).save(tmp_path / f"{number:02}.png")
    lines = command("predict", runs / "whole", *sorted(tmp_path.glob("*.png"))).stdout.splitlines()
    logits = np.load(runs / "whole" / "test_predictions.npz")["logits"][:20]
    assert [line.split()[1] for line in lines] == [str(best) for best in logits.argmax(1)]


def test_the_saved_configuration_trains_the_run_again(source: Path, command: Command, tmp_path: Path) -> None:
    fit = f"fit --model.backbone.weights {source} --data.cache_dir cache --trainer.max_epochs 2 --name first"
    command(fit, "--model.backbone.unfreeze", "{1: block2_pool}", *FLAGS)
    runs = tmp_path / "runs" / "vgg"
    command(f"fit -c {runs}/first/config.yaml")
    assert history_without_seconds(runs / "first-2") == history_without_seconds(runs / "first")
    assert (runs / "first-2" / "config.yaml").read_text() == (runs / "first" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--model.backbone.weigths", "none"],
            "unknown flag --model.backbone.weigths; did you mean 'model.backbone.weights'?",
        ),
        (["-c", "typo.yaml"], "typo.yaml, line 3: unknown key 'model.backbone.freez_until'; did you mean 'model.backb"),
        (["--model.backbone.pooling", "mean"], "'max']. Got value: mean"),
        (["--model.backbone.weights", "vgg.pth"], "there is no file or run folder vgg.pth"),
        (["--model.backbone.weights", "none", "--data.image_size", "16"], "block5"),
    ],
)
def test_what_the_user_can_mend_is_said_before_anything_is_written(
    arguments: list[str], complaint: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "typo.yaml").write_text("model:\n  backbone:\n    freez_until: all\n")
    error = command("fit", *arguments, status=2).stderr
    assert complaint in error
    assert "Union" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["typo.yaml"]


# --- configurations and real weights ----------------------------------------------------------------------------------

BASE = CONFIGS / "transfer" / "base.yaml"
PHOTOS = CONFIGS / "transfer" / "photos.yaml"  # stands alone: test_photos.py trains it
OVERLAYS = sorted({*BASE.parent.glob("*.yaml")} - {BASE, PHOTOS})


@pytest.fixture(scope="module")
def random_vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in vgg16().features.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    save_file({f"features.{name}": 0.02 * torch.randn(shape) for name, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 60 training and 20 test digits."""
    folder = tmp_path_factory.mktemp("digits")
    write_folder(folder, load_images(DataSpec("digits")), train=6, test=2)
    return folder


def write_folder(folder: Path, images: Any, train: int, test: int) -> None:
    """So many images of each class."""
    for split, pixels, labels, count in (
        ("train", images.train_images, images.train_labels, train),
        ("test", images.test_images, images.test_labels, test),
    ):
        for label, name in enumerate(images.class_names):
            (folder / split / name).mkdir(parents=True)
            for number in np.flatnonzero(labels == label)[:count]:
                Image.fromarray(pixels[number]).save(folder / split / name / f"{number:05}.png")


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda path: path.stem if path else "base")
def test_configuration_trains(
    overlay: Path | None, random_vgg16: Path, small_folder: Path, command: Command, tmp_path: Path
) -> None:
    command(f"""
        fit -c {BASE} {f"-c {overlay}" if overlay else ""} --model.backbone.weights {random_vgg16}
        --model.backbone.preprocessing keras_caffe --data.source folder --data.root {small_folder}
        --data.train_images 40 --data.cache_dir cache --trainer.max_epochs 1 --trainer.logger false
    """)
    record = json.loads((only_run(tmp_path) / "run.json").read_text())
    assert 0 <= record["test_acc"] <= 1
    assert record["backbone"]["preprocessing"] == "keras_caffe"
    assert record["trainable_parameters"] + record["frozen_parameters"] == record["parameters"]
    assert (
        record["frozen_parameters"]
        == {"base": 1735488, "dense_head": 1735488, "gradual": 14714688, "fine_tuning": 0, "top_block": 7635264}[
            overlay.stem if overlay else "base"
        ]
    )


@pytest.mark.slow
def test_real_features_tell_real_images_apart_and_the_channel_order_matters(
    test_data: Path, command: Command, tmp_path: Path
) -> None:
    write_folder(
        tmp_path / "images",
        load_images(DataSpec("folder", root=str(test_data / "data" / "cifar10-jpeg.tar.xz"))),
        train=30,
        test=15,
    )
    accuracies = {}
    for preprocessing in ("keras_caffe", "torchvision_features"):
        command(f"""
            fit -c {BASE} --model.backbone.preprocessing {preprocessing}
            --model.backbone.weights {test_data}/weights/vgg16_imagenet_caffe_features.safetensors
            --data.source folder --data.root images --data.train_images null --data.cache_dir cache
            --trainer.logger false --name {preprocessing}
        """)
        record = json.loads((tmp_path / "runs" / "transfer-linear" / preprocessing / "run.json").read_text())
        accuracies[preprocessing] = record["test_acc"]
    assert accuracies["keras_caffe"] > 0.4  # by chance 0.1
    features = [np.load(path) for path in sorted((tmp_path / "cache").glob("features-*/features.npy"))]
    right, wrong = (part for part in features if len(part) == 150)
    assert np.abs(right - wrong).max() > 0.1 * np.abs(right).max()
    assert os.listdir(tmp_path / "cache")
