"""``lightning-vgg port model.keras``: a Keras model as an experiment of this project, with proof that it is one."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.experiment.settings import as_yaml
from lightning_vgg.experiment.specs import ModelSpec, NetworkSpec, OptimizerSpec
from lightning_vgg.runs.folder import atomic_write
from lightning_vgg.weights.neutral import write_neutral

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras

    from keras_reference.porting import PortedModel
    from keras_reference.weights import NeutralTensor, Tensors
    from parity_tests.ladder import Rung
    from parity_tests.pair import Batch

IMAGES = 16
"""Random images that both models are compared on, where none are named."""
UNIT = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
"""Mean and deviation that make pixels 0..1, as most models without a layer for it are fed."""


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(
        f"lightning-vgg {command}",
        "Port a Keras model: write an experiment and its weights, after checking in float64 that logits, gradients and "
        "a step of the optimizer are those of the model. Exit status 1, and nothing written, if they are not.",
    )
    parser.add_argument("model", help="a .keras or .h5 file, or module:function that returns a model")
    parser.add_argument("--classes", type=int, help="put Flatten and a fresh dense layer of so many units on the model")
    parser.add_argument("--output", type=Path, help="folder to write to; by default the name of the model")
    parser.add_argument(
        "--images", type=Path, nargs="+", help="compare on these image files; by default on random ones"
    )
    options = parser.read(args)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # measured on the CPU, where both compute in true float64
    require("tensorflow", "keras")
    folder = options.output or Path(Path(options.model.rpartition(":")[2]).stem)
    if (folder / "experiment.yaml").exists():
        raise ExperimentError(f"{folder / 'experiment.yaml'} exists: name another folder with --output")

    from keras_reference.porting import port_model
    from parity_tests.command import ladder_table, wide_console
    from parity_tests.ladder import failed

    model = load_model(options.model)
    if options.classes is not None:
        model = with_classifier(model, options.classes)
    ported = port_model(model)
    rungs = prove(model, ported, batch_of(ported.plan, options.images))
    console = wide_console()
    console.print(ladder_table(rungs))
    for note in ported.notes:
        print(f"note: {note}")
    if failures := failed(rungs):
        print(f"{len(failures)} of {len(rungs)} checks failed: nothing is written", file=sys.stderr)
        sys.exit(1)
    write_port(ported, folder)
    layers, parameters = len(ported.plan.layers), ported.plan.trainable_parameters
    print(f"{layers} layers, {parameters:,} trainable parameters: {len(rungs)} of {len(rungs)} checks passed")
    print(f"train it further   lightning-vgg fit -c {folder / 'experiment.yaml'}")


def load_model(name: str) -> keras.Model:
    """The model of a file, or that a function returns.

    Raises:
        ExperimentError: there is no such file or function, or Keras cannot read it without running code from it.
    """
    from parity_tests.frameworks import keras

    path = Path(name).expanduser()
    if path.is_dir():
        raise ExperimentError(
            f"{name} is a folder: Keras 3 loads no SavedModel; save it with model.save('model.keras')"
        )
    if not path.exists() and ":" in name:
        return _made_by(name)
    if not path.exists():
        raise ExperimentError(f"there is no file {name}")
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ExperimentError(f"{name} is no .keras or .h5 file: save the model with model.save('model.keras')")
    try:
        with warnings.catch_warnings():
            # Said of one that has not trained yet; of the optimizer its settings alone are ported.
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            return keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # a bad file raises anything from BadZipFile to KeyError
        reason = str(error).strip().split("\n")[0]
        raise ExperimentError(f"Keras cannot read {name}: {reason or type(error).__name__}") from None


def _made_by(name: str) -> keras.Model:
    from parity_tests.frameworks import keras

    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        model = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ExperimentError(f"{name}: {error}") from None
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(model, keras.Model):
        raise ExperimentError(f"{name} returns {type(model).__name__}, not a Keras model")
    return model


def with_classifier(model: keras.Model, classes: int) -> keras.Model:
    """With pixels flattened and one unit for each class on top, freshly initialized."""
    from parity_tests.frameworks import keras

    return keras.Sequential(
        [keras.Input(model.input_shape[1:]), model, keras.layers.Flatten(), keras.layers.Dense(classes)]
    )


def batch_of(plan: NetworkPlan, paths: list[Path] | None) -> Batch:
    """Pixels 0..255 in float64, and labels; of the image files, or random."""
    from lightning_vgg.images.decode import image_files, open_image
    from parity_tests.pair import Batch

    random, size = np.random.default_rng(0), plan.input_shape[0]
    if paths is None:
        pixels = random.integers(0, 256, (IMAGES, *plan.input_shape)).astype(np.float64)
    else:
        files = [file for path in paths for file in image_files(path)]
        pixels = np.stack([open_image(file, size) for file in files]).astype(np.float64)
    labels = random.integers(0, plan.num_classes, len(pixels))
    return Batch(pixels, labels, np.zeros(len(pixels), np.int64))


def prove(model: keras.Model, ported: PortedModel, batch: Batch) -> list[Rung]:
    """Both models on the same images, without dropout: the output as it is, and in float64 logits, loss, statistics of
    batch norm, gradients and one step of the optimizer.

    Args:
        model: the Keras model itself, of which a copy in float64 is measured.
        ported: what was made of it, and is built in PyTorch.
        batch: pixels 0..255; where the model does not scale them itself, both get pixels 0..1.
    """
    import torch
    from torch import nn

    from keras_reference.weights import network_tensors as keras_tensors
    from lightning_vgg.training.kernels import OTHER_KERNELS
    from lightning_vgg.training.weights import load_tensors
    from parity_tests.distance import distance
    from parity_tests.ladder import GATES, Gate, verdict
    from parity_tests.pair import TorchSide, damped_scales, parameters, statistics

    spec = ModelSpec(network=ported.network, label_smoothing=ported.label_smoothing)
    optimizer = ported.optimizer or OptimizerSpec()
    ours, theirs = TorchSide(spec, ported.plan, "float64", seed=0), _Copy(model, ported)
    load_tensors("the model", ours.network, ported.weights())
    for module in ours.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    mean, std = (np.asarray(value) for value in ((ported.mean, ported.std) if ported.mean else UNIT))
    scaled = replace(batch, images=(batch.images - mean) / std)
    fed = batch.images if ported.mean else scaled.images

    def measured_in_torch() -> dict[str, Tensors]:
        twin = ours.twin()
        found = {"logits": {"logits": twin.logits(scaled)}, "training loss": {"loss": twin.loss(scaled)}}
        return {
            **found,
            "batch norm statistics": statistics(twin.tensors()),
            "gradients": ours.twin().gradients(scaled),
        }

    found, controls = measured_in_torch(), []
    for kernels in OTHER_KERNELS:
        with kernels():
            controls.append(measured_in_torch())
    logits, (loss, gradients) = theirs.logits(fed), theirs.loss_and_gradients(fed, batch.labels)
    moved = statistics(keras_tensors(theirs.tensors()))
    reference = {"logits": {"logits": logits}, "training loss": {"loss": loss}}
    reference |= {"batch norm statistics": moved, "gradients": gradients}
    scales = {"gradients": damped_scales(found["gradients"], ported.plan)}
    gates = {"logits": GATES["forward"], "training loss": GATES["loss"]}
    rungs = []
    for name, value in found.items():
        apart = distance(reference[name], value, scales.get(name))
        control = max(distance(value, other[name], scales.get(name)).value for other in controls)
        rungs.append(verdict(name, "float64", gates.get(name) or GATES[name], apart, control))

    # The copy is a chain, as the model was read; here the model itself speaks, in its own precision.
    output = torch.from_numpy(found["logits"]["logits"])
    output = torch.softmax(output, 1) if ported.softmax else output
    apart = distance({"output": np.asarray(model(fed, training=False), np.float64)}, {"output": output.numpy()})
    rungs.insert(0, verdict("the model's own output", "float32", Gate(1e-4, 1e-4), apart, None))

    list(ours.steps_by([found["gradients"]], optimizer, [optimizer.learning_rate], ported.clip))
    theirs.step(found["gradients"], optimizer)
    apart = distance(parameters(keras_tensors(theirs.tensors())), parameters(ours.tensors()))
    one_step = f"one step of {optimizer.name}, by the same gradients"
    return [*rungs, verdict(one_step, "float64", GATES["sgd"], apart, None)]


class _Copy:
    """A Keras model in float64, without dropout, that ends in logits."""

    def __init__(self, model: keras.Model, ported: PortedModel) -> None:
        from keras_reference.optim import training_loss
        from keras_reference.porting import chain
        from parity_tests.frameworks import keras
        from parity_tests.pair import keras_precision

        self.original, self.ported = model, ported
        originals = list(chain(model))
        places = [number for number, layer in enumerate(originals) if any(layer is own for own in ported.layers)]
        with keras_precision("float64"):
            copies = [[_copy(layer, number) for number, layer in enumerate(originals)] for _ in range(2)]
            self.model, self.holder = (
                keras.Sequential([keras.Input(model.input_shape[1:], dtype="float64"), *layers]) for layers in copies
            )
            self.loss_function = training_loss(ported.label_smoothing, ported.plan.num_classes)
        self.layers, self.holders = ([layers[place] for place in places] for layers in copies)
        for layer, copy in zip(ported.layers, self.layers, strict=True):
            copy.set_weights(layer.get_weights())

    def tensors(self) -> Iterator[NeutralTensor]:
        from keras_reference.weights import plan_tensors

        return plan_tensors(self.ported.plan, self.layers)

    def logits(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.model(images, training=False))

    def loss_and_gradients(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Tensors]:
        """In training mode; the statistics move."""
        import tensorflow as tf

        from parity_tests.pair import keras_precision

        tensors = [tensor for tensor in self.tensors() if not tensor.name.endswith(("running_mean", "running_var"))]
        with tf.GradientTape() as tape, keras_precision("float64"):
            loss = sum(self.model.losses, self.loss_function(labels, self.model(images, training=True)))
        values = tape.gradient(loss, [tensor.variable.value for tensor in tensors])
        found = {
            tensor.name: replace(tensor, variable=value).read() for tensor, value in zip(tensors, values, strict=True)
        }
        return np.asarray(loss), found

    def step(self, gradients: Tensors, known: OptimizerSpec) -> None:
        """By the model's own optimizer, where it is known; ``gradients`` have neutral names."""
        from keras_reference.optim import build_optimizer
        from keras_reference.weights import plan_tensors
        from parity_tests.pair import keras_precision

        for tensor in plan_tensors(self.ported.plan, self.holders):
            if tensor.name in gradients:
                tensor.assign(gradients[tensor.name])
        variables = self.model.trainable_variables
        with keras_precision("float64"):
            rates = np.array([known.learning_rate])
            if self.ported.optimizer is None:
                optimizer = build_optimizer(known, rates, None, variables)
            else:
                own = self.original.optimizer
                # With all digits: bare numbers TensorFlow rounds to float32, and so does the rate's variable.
                numbers = {name: np.float64(value) for name, value in own.get_config().items() if type(value) is float}
                config = own.get_config() | numbers | {"learning_rate": np.float64(known.learning_rate)}
                optimizer = type(own).from_config(config)
            optimizer.apply([variable.value for variable in self.holder.trainable_variables], variables)


def _copy(layer: keras.layers.Layer, number: int) -> keras.layers.Layer:
    """In float64, without dropout, a softmax left out, and its constants with all digits."""
    from keras_reference.blocks import gelu
    from parity_tests.frameworks import keras

    config = layer.get_config() | {"dtype": "float64", "name": f"{layer.name}_{number}"}
    match layer:
        case keras.layers.Softmax():
            return keras.layers.Activation("linear", dtype="float64", name=config["name"])
        case keras.layers.Dropout():
            config["rate"] = 0.0
        case keras.layers.Rescaling():  # a bare number TensorFlow rounds to float32
            config |= {name: np.float64(getattr(layer, name)) for name in ("scale", "offset")}
        case keras.layers.Normalization():
            config |= {name: np.asarray(getattr(layer, name)).reshape(-1) for name in ("mean", "variance")}
    activations = {"softmax": "linear", "gelu": gelu}
    if config.get("activation") in activations:
        config["activation"] = activations[config["activation"]]
    return type(layer).from_config(config)


def _set(spec: NetworkSpec | OptimizerSpec, *always: str) -> PlainDict:
    """The settings that are not the default ones, and ``always`` these."""
    usual = asdict(type(spec)())
    return {name: value for name, value in asdict(spec).items() if name in always or value != usual[name]}


def write_port(ported: PortedModel, folder: Path) -> None:
    """Write ``experiment.yaml`` and ``weights.safetensors``; the first says what of the model is not kept."""
    mean, std = (ported.mean, ported.std) if ported.mean and ported.std else UNIT
    model: PlainDict = {"network": _set(ported.network, "conv_block", "filters", "dense_block", "units")}
    if ported.optimizer is not None:
        model["optimizer"] = _set(ported.optimizer, "name", "learning_rate")
    if ported.label_smoothing:
        model["label_smoothing"] = ported.label_smoothing
    weights = folder / "weights.safetensors"
    settings: PlainDict = {
        "experiment": folder.name,
        "model": {**model, "semantics": "keras", "init_from": str(weights)},
        "data": {"image_size": ported.plan.input_shape[0], "mean": list(mean), "std": list(std)},
    }
    if ported.clip is not None:
        settings["trainer"] = {"gradient_clip_val": ported.clip}
    notes = "".join(f"# {note}\n" for note in ported.notes)
    folder.mkdir(parents=True, exist_ok=True)
    write_neutral(weights, ported.weights())
    with atomic_write(folder / "experiment.yaml") as file:
        file.write(f"# Ported from Keras.\n{notes}{as_yaml(settings)}".encode())
