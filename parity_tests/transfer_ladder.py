"""The rungs of transfer learning: a pretrained backbone on either side, and what is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from keras_reference import optim as keras_optim
from keras_reference.blocks import layer_name
from keras_reference.data import Preprocess
from keras_reference.dropout import Classifier
from keras_reference.pretrained import load_pretrained as keras_pretrained
from keras_reference.transfer import Network, Resize
from keras_reference.transfer import count_parameters as keras_count
from keras_reference.transfer import parameter_groups as keras_groups
from keras_reference.weights import load_tensors
from keras_reference.weights import network_tensors as keras_tensors
from lightning_vgg.experiment.backbone_plan import BackbonePlan, plan_model
from lightning_vgg.experiment.draws import draw_epoch, mask_keys
from lightning_vgg.experiment.network_plan import idle_biases
from lightning_vgg.experiment.recipe import MaxPool
from lightning_vgg.experiment.specs import AugmentationSpec, ExperimentSpec, ModelSpec, OptimizerSpec
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import Dataset
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.dropout import set_mask_keys
from lightning_vgg.training.kernels import OTHER_KERNELS
from lightning_vgg.training.loss import TrainingLoss
from lightning_vgg.training.optim import build_optimizer
from lightning_vgg.training.pretrained import load_pretrained as torch_pretrained
from lightning_vgg.training.transfer import Backbone, on_backbone, parameter_groups, resize
from lightning_vgg.training.transfer import count_parameters as torch_count
from lightning_vgg.training.weights import network_tensors
from parity_tests.distance import Distance, distance
from parity_tests.frameworks import keras
from parity_tests.ladder import (
    BATCH,
    GATES,
    OPTIMIZERS,
    STEPS,
    Gate,
    Ladder,
    Report,
    Rung,
    compare,
    exact,
    search_small_batch,
    shapes,
    verdict,
    without_verdict,
)
from parity_tests.pair import (
    Batch,
    Precision,
    Tensors,
    count_flips,
    forks,
    keras_precision,
    randomize,
    torch_activations,
)

EMBEDDED = 256
"""Images whose embeddings are compared."""

RESIZE = Gate(1e-13, 1e-6)
EMBEDDINGS = Gate(1e-12, 1e-5)
"""Of VGG16's thirteen convolutions, one after the other; the forward gate is one of six."""


def ladder_of(experiment: ExperimentSpec, dataset: Dataset) -> Ladder:
    """The ladder for an experiment, on a backbone or without one."""
    return (Ladder if experiment.model.backbone is None else TransferLadder)(experiment, dataset)


class TransferPair:
    """Backbone and head in torch and in Keras; each side reads the pretrained weights by itself.

    Attributes:
        plan: of the backbone.
        torch_network: ``backbone`` and the head's blocks.
        keras: the same layers.
    """

    def __init__(self, spec: ModelSpec, image_size: int, num_classes: int, precision: Precision, seed: int) -> None:
        assert spec.backbone is not None
        self.spec, self.precision = spec, precision
        self.semantics = spec.resolved_semantics
        self.loss = TrainingLoss(self.semantics, spec.label_smoothing)
        ours = torch_pretrained(spec.backbone, image_size, self.semantics)
        theirs = keras_pretrained(spec.backbone, image_size)
        self.plan = ours.plan
        head = plan_model(ExperimentSpec(model=spec), num_classes, self.plan)
        torch.manual_seed(seed)
        torch_head = build_network(head, self.semantics)
        randomize(torch_head, seed + 1)
        dtype = getattr(torch, precision)
        self.torch_network: nn.Module = on_backbone(Backbone(ours), torch_head).to(dtype)
        with keras_precision(precision):
            self.keras = Network(head, theirs, image_size)
        # Weights that nobody has trained are drawn by torch; those that are read stay as each side read them.
        shared = [
            tensor for tensor in self.keras.tensors() if not (theirs.tensors and tensor.name.startswith("backbone."))
        ]
        values = self.torch_tensors()
        load_tensors("torch's network", shared, {tensor.name: values[tensor.name] for tensor in shared})

    def torch_tensors(self) -> Tensors:
        return network_tensors(self.torch_network)

    @property
    def backbone(self) -> Backbone:
        backbone = self.torch_network.get_submodule("backbone")
        assert isinstance(backbone, Backbone)
        return backbone

    def torch_layers(self, images: np.ndarray) -> Tensors:
        """What each layer makes of normalized images (B, S, S, 3), channels last; and the pooled end."""
        backbone = self.backbone.eval()
        outputs: Tensors = {}
        with torch.no_grad():
            hidden = resize(torch.from_numpy(images).permute(0, 3, 1, 2), self.plan.image_size)
            for name, layer in backbone.named_children():
                hidden = layer(hidden)
                outputs[name] = np.moveaxis(hidden.numpy(), 1, -1)
            outputs["pooled"] = np.moveaxis(backbone.pool(hidden).numpy(), 1, -1)
        return outputs

    def keras_extractor(self) -> keras.Model:
        """Preprocessed images -> what `torch_layers` gives, in a dictionary."""
        assert self.keras.backbone is not None
        with keras_precision(self.precision):
            inputs = self.keras.backbone.inputs()
            hidden, outputs = self.keras.backbone.resize(inputs), {}
            for planned, layer in zip(self.plan.layers, self.keras.backbone.layers, strict=True):
                outputs[planned.name] = hidden = layer(hidden, training=False)
            outputs["pooled"] = self.keras.backbone.pool(hidden)
            return keras.Model(inputs, outputs)

    def flips(self, ours: Batch, theirs: Batch, frozen: int) -> tuple[int, int]:
        """How many gradients above the frozen layers take another path in Keras; and in torch by other kernels."""
        backbone = [replace(layer, name=f"backbone.{layer.name}") for layer in self.plan.layers[frozen:]]
        layers = [*backbone, *self.keras.plan.layers]
        probe = self._keras_probe(frozen)
        before = keras_tensors(self.keras.tensors())

        def torch_paths(batch: Batch) -> Tensors:
            network = self.frozen_copy(frozen, batch)
            images = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
            return torch_activations(network, self.keras.plan, layers, lambda: network(images))

        def keras_paths(batch: Batch) -> Tensors:
            outputs = probe(batch.for_keras, training=True)
            load_tensors("itself", self.keras.tensors(), before)
            return {name: np.asarray(output) for name, output in outputs.items()}

        return count_flips(layers, torch_paths, keras_paths, ours, theirs)

    def _keras_probe(self, frozen: int) -> keras.Model:
        """Preprocessed images and mask keys -> what `gradient_paths` looks at."""
        backbone, head = self.keras.backbone, self.keras.head
        assert backbone is not None
        backbone.freeze(frozen)
        with keras_precision(self.precision):
            inputs = backbone.inputs()
            hidden, outputs = backbone(inputs, 0, frozen, frozen), {}
            for planned, layer in [*zip(self.plan.layers, backbone.layers, strict=True)][frozen:]:
                before, hidden = hidden, layer(hidden)
                if forks([planned]):
                    outputs[f"backbone.{planned.name}"] = before if isinstance(planned.layer, MaxPool) else hidden
            of_head = {planned.name: head.get_layer(layer_name(planned)) for planned in forks(self.keras.plan.layers)}
            if of_head:
                values = {
                    name: layer.input if isinstance(layer, keras.layers.MaxPooling2D) else layer.output
                    for name, layer in of_head.items()
                }
                outputs |= keras.Model(head.input, values)(backbone.pool(hidden))
            return Classifier(inputs, outputs)

    def frozen_copy(self, frozen: int, batch: Batch) -> nn.Module:
        """torch's network in training mode, which drops by the keys of a batch."""
        network = deepcopy(self.torch_network).train()
        network.get_submodule("backbone").freeze(frozen)
        set_mask_keys(network, torch.from_numpy(batch.mask_keys))
        return network

    def torch_step(self, batch: Batch, optimizer: OptimizerSpec, plan: BackbonePlan) -> Tensors:
        network = self.frozen_copy(plan.frozen_layers(0), batch)
        stepper = build_optimizer(network, optimizer, self.semantics, parameter_groups(network, plan))
        logits = network(torch.from_numpy(batch.images).permute(0, 3, 1, 2))
        F.cross_entropy(logits, torch.from_numpy(batch.labels)).backward()
        stepper.step()
        return network_tensors(network)

    def keras_step(self, batch: Batch, optimizer: OptimizerSpec, plan: BackbonePlan) -> Tensors:
        """By Keras's own ``train_on_batch``; the network is as before afterwards."""
        before = keras_tensors(self.keras.tensors())
        rates = np.full(1, optimizer.learning_rate)
        with keras_precision(self.precision):
            model = self.keras.model(plan.frozen_layers(0))
            groups = keras_groups(self.keras, plan, steps=1)
            model.compile(
                keras_optim.GroupedOptimizer(optimizer, rates, None, groups),
                keras_optim.training_loss(0.0, self.keras.plan.num_classes),
                jit_compile=False,
            )
            model.train_on_batch(batch.for_keras, batch.labels)
        after = keras_tensors(self.keras.tensors())
        load_tensors("itself", self.keras.tensors(), before)
        return after


class TransferLadder(Ladder):
    """The rungs of an experiment on a pretrained backbone."""

    def __init__(self, experiment: ExperimentSpec, dataset: Dataset) -> None:
        spec = experiment.model
        assert spec.backbone is not None
        pretrained = torch_pretrained(spec.backbone, experiment.image_size, spec.resolved_semantics)
        if pretrained.normalization is not None:
            dataset = replace(dataset, normalization=pretrained.normalization)
        super().__init__(experiment, dataset)
        self.plan = pretrained.plan

    def rungs(self) -> Iterator[Report]:
        yield self.specification()
        yield from self.squares()
        yield self.preprocessing()
        yield self.augmentation()
        yield from self.patience()
        for precision in ("float64", "float32"):
            yield self.resize(precision)
            yield from self.embeddings(precision)
            yield from self.fine_tuning(precision)
            yield from self.head_training(precision)
        yield self.whole_run()

    def transfer_pair(self, precision: Precision) -> TransferPair:
        return TransferPair(self.spec, self.data.image_size, self.classes, precision, self.seed)

    def images(
        self, count: int, precision: Precision, preprocess: Preprocess | None = None, size: int = BATCH
    ) -> list[Batch]:
        """Of ``count`` training images, for either side: normalized, or as ``preprocess`` makes them of the pixels."""
        images, labels = self.dataset.train
        order = np.resize(draw_epoch(self.seed, 0, len(labels), images.shape[1], AugmentationSpec()).index, count)
        preprocess = preprocess or (lambda pixels: normalize(pixels, self.dataset.normalization, np.dtype(precision)))
        parts = np.split(order, range(size, len(order), size))
        return [Batch(preprocess(images[rows]), labels[rows], mask_keys(self.seed, 0, rows)) for rows in parts]

    def keras_images(self, pair: TransferPair, count: int, size: int = BATCH) -> list[Batch]:
        assert pair.keras.backbone is not None
        preprocess = pair.keras.backbone.preprocess(self.dataset.normalization, pair.precision)
        return self.images(count, pair.precision, preprocess, size)

    def specification(self) -> Rung:
        pair = self.transfer_pair("float32")
        found = distance(shapes(pair.torch_tensors()), shapes(keras_tensors(pair.keras.tensors())))
        layers = pair.plan.frozen_layers(0)
        pair.backbone.freeze(layers)
        pair.keras.model(layers)
        counts = torch_count(pair.torch_network), keras_count(pair.keras)
        if counts[0] != counts[1]:
            found = Distance(float("inf"), f"parameters {counts}")
        return exact("specification", found)

    def keras_preprocess(self) -> Preprocess:
        """As the backbone has it in Keras, back in RGB."""
        backbone = self.transfer_pair("float32").keras.backbone
        assert backbone is not None
        preprocess = backbone.preprocess(self.dataset.normalization, "float32")
        return lambda images: preprocess(images)[..., :: -1 if backbone.bgr else 1]

    def resize(self, precision: Precision) -> Rung:
        """Normalized images to half as many pixels again and to half, and to the experiment's own size."""
        (batch, *_) = self.images(BATCH, precision)
        ours, theirs = {}, {}
        own = self.plan.image_size
        for size in sorted({self.image_size * 3 // 2, self.image_size // 2, own} - {self.image_size}):
            with keras_precision(precision):
                theirs[f"{size} px"] = np.asarray(Resize(size)(batch.images))
            resized = resize(torch.from_numpy(batch.images).permute(0, 3, 1, 2), size)
            ours[f"{size} px"] = resized.permute(0, 2, 3, 1).numpy()
        return verdict("resize", precision, RESIZE, distance(ours, theirs), None)

    def embeddings(self, precision: Precision) -> Iterator[Rung]:
        """What every layer makes of real images: a rung a block, and one for the pooled end."""
        pair = self.transfer_pair(precision)
        extractor = pair.keras_extractor()
        apart, others = _Apart(), _Apart()
        for ours, theirs in zip(self.images(EMBEDDED, precision), self.keras_images(pair, EMBEDDED), strict=True):
            reference = pair.torch_layers(ours.images)
            apart.add(reference, {name: np.asarray(value) for name, value in extractor(theirs.images).items()})
            if precision == "float32":
                for kernels in OTHER_KERNELS:
                    with kernels():
                        others.add(reference, pair.torch_layers(ours.images))
        controls = others.by_block()
        for block, found in apart.by_block().items():
            control = controls[block].value if controls else None
            yield verdict(f"embeddings, {block}", precision, EMBEDDINGS, found, control)

    def fine_tuning(self, precision: Precision) -> Iterator[Report]:
        """One step with the lower half of the layers frozen, each block above at a rate of its own."""
        pair = self.transfer_pair(precision)
        half = len(pair.plan.layers) // 2
        plan = replace(pair.plan, frozen=((0, half),), rate_factor=0.5, layer_decay=0.5)
        (ours, *_), (theirs, *_) = self.images(BATCH, precision), self.keras_images(pair, BATCH)
        small = None
        if precision == "float32":
            small = search_small_batch(lambda size, number: pair.flips(*self.candidates(pair, size, number), half))
            ours, theirs = self.candidates(pair, small.size, small.number)
        lower = tuple(f"backbone.{layer.name}." for layer in plan.layers[:half])
        before = pair.torch_tensors()
        for name in ("sgd", "adam") if precision == "float64" else ("sgd",):
            optimizer = OPTIMIZERS[name][0]
            sides = [pair.torch_step(ours, optimizer, plan), pair.keras_step(theirs, optimizer, plan)]
            if small is not None:
                for kernels in OTHER_KERNELS:
                    with kernels():
                        sides.append(pair.torch_step(ours, optimizer, plan))
            idle = {f"backbone.{bias}" for bias in idle_biases(pair.plan.layers)}
            for side in sides:
                for bias in idle & side.keys():
                    del side[bias]
                moved = [key for key in side if key.startswith(lower) and not np.array_equal(side[key], before[key])]
                side["frozen tensors that moved"] = np.array(float("nan") if moved else 1.0)
            rung = compare(f"{name}, half frozen, 1 step", precision, GATES[name], sides)
            yield without_verdict(rung) if small is not None and small.own_flips else rung

    def candidates(self, pair: TransferPair, size: int, number: int) -> tuple[Batch, Batch]:
        """The small batch of that number, as torch and as Keras reads it."""
        count = size * (number + 1)
        return self.images(count, "float32", size=size)[number], self.keras_images(pair, count, size)[number]

    def head_ladder(self, steps: int) -> HeadLadder:
        """On the embeddings of as many images as that many steps take, or of all."""
        pair = self.transfer_pair("float32")
        batches = self.images(min(BATCH * steps, len(self.dataset.train.labels)), "float32")
        embeddings = [pair.torch_layers(batch.images)["pooled"] for batch in batches]
        labels = np.concatenate([batch.labels for batch in batches])
        return HeadLadder(self.experiment, self.dataset, np.concatenate(embeddings), labels)

    def head_training(self, precision: Precision) -> Iterator[Report]:
        """The head's own ladder, on the same embeddings in both."""
        head = self.head_ladder(STEPS)
        for rung in (head.forward(precision), head.gradients(precision), *head.steps(head.own_optimizer, precision)):
            yield replace(rung, name=f"head: {rung.name}")


class _Apart:
    """The distance of tensors that come batch by batch."""

    def __init__(self) -> None:
        self.difference: dict[str, float] = {}
        self.largest: dict[str, float] = {}

    def add(self, reference: Tensors, other: Tensors) -> None:
        for name, value in reference.items():
            apart = float(np.abs(value - other[name]).max()) if value.shape == other[name].shape else float("inf")
            self.difference[name] = max(self.difference.get(name, 0.0), apart)
            self.largest[name] = max(self.largest.get(name, 0.0), float(np.abs(value).max()))

    def by_block(self) -> dict[str, Distance]:
        """The worst layer of each block, and what is pooled of the last."""
        worst: dict[str, Distance] = {}
        for name, difference in self.difference.items():
            found = Distance(difference / (self.largest[name] or 1.0), name)
            block = name.partition("_")[0]
            worst[block] = max(worst.get(block, found), found)
        return worst


class HeadLadder(Ladder):
    """The rungs of the network that stands on a backbone, on given embeddings (N, H, W, C)."""

    def __init__(
        self, experiment: ExperimentSpec, dataset: Dataset, embeddings: np.ndarray, labels: np.ndarray
    ) -> None:
        super().__init__(replace(experiment, model=replace(experiment.model, backbone=None)), dataset)
        self.embeddings, self.labels = embeddings, labels
        _, self.image_size, _, self.channels = embeddings.shape

    @property
    def own_optimizer(self) -> str:
        """The experiment's, or Adam, which is among those always tried."""
        return next(reversed(self.optimizers())) if "own" in self.optimizers() else "adam"

    def batches(self, count: int, precision: Precision, size: int = BATCH) -> list[Batch]:
        rows = np.resize(np.arange(len(self.labels)), count * size)
        return [
            Batch(self.embeddings[part].astype(precision), self.labels[part], mask_keys(self.seed, step, part))
            for step, part in enumerate(np.split(rows, count))
        ]
