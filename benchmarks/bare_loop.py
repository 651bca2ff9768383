"""The hand-written PyTorch loop that ``fit`` is measured against: prints its speed and the largest memory as JSON.

It has what a good loop has (images as uint8 on the device, channels_last, a fused optimizer, no waiting for a GPU) and
nothing else: no metrics, no logs, no checkpoints. The speed is the median over its epochs, in images per second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from common import DEVICE, NETWORKS, add_images, finish_on_device, image_settings, training_step
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from lightning_vgg import build_network, load_images
from lightning_vgg.training.callbacks import peak_memory
from lightning_vgg.training.cuda_check import make_cuda_checks_cheap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_images(parser)
    parser.add_argument("--network", choices=NETWORKS, default="lesson")
    parser.add_argument("--images", type=int, default=12800)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--augmented", action="store_true", help="flip, shift by 4, cut out 8 pixels, once a batch")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--compile", action="store_true", help="by torch.compile")
    options = parser.parse_args()
    make_cuda_checks_cheap()  # as in fit
    images = load_images(image_settings(options.root, options.images)).train
    speed = statistics.median(train(images.images, images.labels, options))
    print(json.dumps({"images_per_second": round(speed, 1), "peak_memory_bytes": peak_memory(DEVICE)}))


def train(images: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> list[float]:
    network: nn.Module = build_network(*NETWORKS[options.network], {"model.semantics": "torch"})
    network = network.to(DEVICE, memory_format=torch.channels_last)
    if options.compile:
        network.compile()
    optimizer = build_optimizer(network, options.network)
    pixels, targets = (torch.from_numpy(array).to(DEVICE) for array in (images, labels))
    mean, deviation = (torch.from_numpy(of(images, axis=(0, 1, 2))).float().to(DEVICE) for of in (np.mean, np.std))
    scale = 1 / deviation
    speeds = []
    for _ in range(options.epochs):
        start = time.perf_counter()
        for index in torch.randperm(len(pixels), device=DEVICE).split(options.batch):
            batch = ((pixels[index].float() - mean) * scale).permute(0, 3, 1, 2)
            if options.augmented:
                batch = augment(batch)
            training_step(network, optimizer, batch, targets[index], options.precision)
        finish_on_device()
        speeds.append(len(pixels) / (time.perf_counter() - start))
    return speeds


def build_optimizer(network: nn.Module, name: str) -> Optimizer:
    """As the network's configuration has it."""
    if name == "lesson":
        return torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    return torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True, fused=True)


def augment(batch: torch.Tensor) -> torch.Tensor:
    """Each image mirrored or not, moved by up to 4 pixels, a square of 8 pixels cut out; (B, 3, 32, 32)."""
    count, size = len(batch), batch.shape[-1]
    batch = torch.where(torch.rand(count, 1, 1, 1, device=DEVICE) < 0.5, batch.flip(3), batch)
    padded = F.pad(batch, (4, 4, 4, 4), mode="reflect")
    axis = torch.arange(size, device=DEVICE)
    row, column = (torch.randint(0, 9, (count, 1), device=DEVICE) + axis for _ in range(2))
    image = torch.arange(count, device=DEVICE)[:, None, None]
    batch = padded.permute(0, 2, 3, 1)[image, row[:, :, None], column[:, None, :]]
    first = torch.randint(0, size, (2, count, 1), device=DEVICE) - 4
    inside = (axis >= first) & (axis < first + 8)
    batch = batch.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0)
    return batch.permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
