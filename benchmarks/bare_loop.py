"""The hand-written PyTorch loop that ``fit`` is measured against: prints images per second of each epoch.

It has what a good loop has (images as uint8 in memory, channels_last, a fused optimizer) and nothing else: no metrics,
no logs, no checkpoints.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from common import LESSON, add_images, image_settings, training_step
from torch.nn import functional as F

from lightning_vgg import build_network, load_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_images(parser)
    parser.add_argument("--images", type=int, default=12800)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--augmented", action="store_true", help="flip, shift by 4, cut out 8 pixels, once a batch")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    options = parser.parse_args()
    images = load_images(image_settings(options.root, options.images)).train
    for speed in train(images.images, images.labels, options):
        print(f"{speed:.1f}", flush=True)


def train(images: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> list[float]:
    network = build_network(LESSON, {"model.semantics": "torch"}).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    pixels, targets = torch.from_numpy(images), torch.from_numpy(labels)
    mean, deviation = (torch.from_numpy(of(images, axis=(0, 1, 2))).float() for of in (np.mean, np.std))
    scale = 1 / deviation
    speeds = []
    for _ in range(options.epochs):
        start = time.perf_counter()
        for index in torch.randperm(len(pixels)).split(options.batch):
            batch = ((pixels[index].float() - mean) * scale).permute(0, 3, 1, 2)
            if options.augmented:
                batch = augment(batch)
            training_step(network, optimizer, batch, targets[index], options.precision)
        speeds.append(len(pixels) / (time.perf_counter() - start))
    return speeds


def augment(batch: torch.Tensor) -> torch.Tensor:
    """Each image mirrored or not, moved by up to 4 pixels, a square of 8 pixels cut out; (B, 3, 32, 32)."""
    count, size = len(batch), batch.shape[-1]
    batch = torch.where(torch.rand(count, 1, 1, 1) < 0.5, batch.flip(3), batch)
    padded = F.pad(batch, (4, 4, 4, 4), mode="reflect")
    axis = torch.arange(size)
    row, column = (torch.randint(0, 9, (count, 1)) + axis for _ in range(2))
    image = torch.arange(count)[:, None, None]
    batch = padded.permute(0, 2, 3, 1)[image, row[:, :, None], column[:, None, :]]
    first = torch.randint(0, size, (2, count, 1)) - 4
    inside = (axis >= first) & (axis < first + 8)
    batch = batch.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0)
    return batch.permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
