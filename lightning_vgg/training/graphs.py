"""A network as a file that runs without this project: ONNX, or torch's own exported program."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_vgg.images.batches import Normalization, normalize
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.weights.export_arguments import ExportRequest
from lightning_vgg.weights.verified_export import Classify, write_verified


class Graph(nn.Module):
    """What is exported: normalized images (B, 3, S, S) -> logits; with preprocessing uint8 images (B, S, S, 3) ->
    probabilities.

    Args:
        model: in evaluation mode.
        normalization: of the pixels.
        with_preprocessing: whether that is part of it.
    """

    def __init__(self, model: VGGClassifier, normalization: Normalization, with_preprocessing: bool) -> None:
        super().__init__()
        # torch.export.save takes tensors in another order in memory for parts of larger ones.
        self.network = deepcopy(model.network).to(memory_format=torch.contiguous_format)
        self.scale = model.spec.tricks.logit_scale
        self.with_preprocessing = with_preprocessing
        dtype = next(model.parameters()).dtype
        self.mean, self.std = (torch.tensor(values, dtype=dtype) for values in (normalization.mean, normalization.std))

    def forward(self, images: Tensor) -> Tensor:
        if not self.with_preprocessing:
            return self.network(images) * self.scale
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        return (self.network(pixels.permute(0, 3, 1, 2)) * self.scale).softmax(1)


def export_graph(request: ExportRequest, model: VGGClassifier, expected: Classify) -> Path:
    """Write a file of ``request.format``, onnx or torch-export.

    Args:
        request: what to write.
        model: with the run's weights, on the CPU and in evaluation mode.
        expected: by the run itself; see `write_verified`.
    """
    graph = Graph(model, request.normalization, request.with_preprocessing).eval()

    def as_fed(images: np.ndarray) -> np.ndarray:
        return images if request.with_preprocessing else _normalized(images, model, request.normalization).numpy()

    def write(path: Path) -> None:
        example = torch.from_numpy(as_fed(np.zeros((2, *request.image_shape), np.uint8)))
        with torch.no_grad():
            program = torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        if request.format == "torch-export":
            torch.export.save(program, path)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            onnx = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["probabilities" if request.with_preprocessing else "logits"],
            )
        assert onnx is not None
        onnx.save(str(path))

    def read(path: Path) -> Classify:
        if request.format == "torch-export":
            exported = torch.export.load(path).module()
            return lambda images: exported(torch.from_numpy(as_fed(images))).detach().numpy()
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": as_fed(images)})[0]

    return write_verified(request.output, request.image_shape, expected, write, read)


def outputs_of(model: VGGClassifier, request: ExportRequest) -> Classify:
    """What a trained network makes of images, as the file is to do it."""

    def classify(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = model(_normalized(images, model, request.normalization))
        return (logits.softmax(1) if request.with_preprocessing else logits).numpy()

    return classify


def _normalized(images: np.ndarray, model: VGGClassifier, normalization: Normalization) -> Tensor:
    """uint8 (B, S, S, 3) -> (B, 3, S, S) in the model's precision."""
    pixels = normalize(images, normalization, np.dtype(str(model.dtype).removeprefix("torch.")))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
