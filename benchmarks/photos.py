"""Photos: images per second of decoding JPEG files, and of a training that reads its images from a file.

    python benchmarks/photos.py --root IMAGES.tar.xz
    python benchmarks/photos.py --root IMAGES.tar.xz --photos 133000 --no-ratio       20 GB of pixels

The photos are the given images, enlarged to 500 x 375 pixels and saved as JPEG in a .tar. Decoding is compared with
Pillow in one thread and with torchvision's decoder on all cores; both resize as the product does, and torchvision's
pixels are not the same. The training is of a small network at 224 pixels, from memory and from the cache's file
(``data.memory``) in turn; so much of its time is reading. The file is in the system's cache if there is room for it.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import add_images, benchmark_parser, publish, spread, take_turns, train
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.decode import Sizing, decode, decode_all
from lightning_vgg.images.sources import load_images
from lightning_vgg.runs.machine import usable_cores

SIZE = 224
DISTINCT = 4000
TEST = 500
NETWORK = {
    "model.network.conv_block": "maxpool(4) - conv - maxpool",
    "model.network.filters": [16],
    "model.network.units": [],
    "data.batch_size": 64,
    "trainer.max_epochs": 1,
    "trainer.logger": False,
}


def main() -> None:
    parser = benchmark_parser("photos", __doc__)
    add_images(parser)
    parser.add_argument("--photos", type=int, default=16_000, help="to train on; a photo has 150 kB of pixels")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ratio", action=argparse.BooleanOptionalAction, default=True, help="also from memory")
    options = parser.parse_args()
    photos = make_photos(options.root)
    decoding = take_turns("decoding", {name: partial(speed, arm, photos) for name, arm in DECODERS.items()}, 3)
    with tempfile.TemporaryDirectory() as folder:
        archive = write_tar(Path(folder, "photos.tar"), photos, options.photos)
        settings = {**NETWORK, "data.source": "folder", "data.root": str(archive), "data.image_size": SIZE}
        settings |= {"data.validation_fraction": 0, "data.cache_dir": folder}
        start = time.perf_counter()
        load_images(DataSpec("folder", str(archive), SIZE, cache_dir=folder, memory=0))
        first_seconds = time.perf_counter() - start
        peaks: dict[str, list[int]] = {}
        arms = {"from the file": 0.0, **({"from memory": 1e3} if options.ratio else {})}
        training = take_turns(
            "training",
            {name: partial(trained, settings, memory, peaks.setdefault(name, [])) for name, memory in arms.items()},
            options.turns if options.ratio else 1,
        )
    figures: dict[str, Any] = {
        "photos": options.photos,
        "gigabytes": options.photos * SIZE**2 * 3 / 1e9,
        "seconds_of_the_first_reading": first_seconds,
        "decoding": {name: spread(speeds) for name, speeds in decoding.items()},
        "training": {name: spread(speeds) for name, speeds in training.items()},
        "peak_memory_bytes": {name: max(values) for name, values in peaks.items()},
    }
    if options.ratio:
        pairs = zip(training["from the file"], training["from memory"], strict=True)
        figures["file_to_memory"] = spread([file / memory for file, memory in pairs])
    rows = [[f"decoding, {name}", f"{spread(speeds)['median']:.0f}", ""] for name, speeds in decoding.items()]
    rows += [
        [f"training, {name}", f"{spread(speeds)['median']:.0f}", f"{max(peaks[name]) / 1e9:.2f}"]
        for name, speeds in training.items()
    ]
    title = f"{options.photos} photos, {figures['gigabytes']:.1f} GB of pixels"
    publish(options.output, title, ["", "images/s", "peak memory, GB"], rows, figures)


def make_photos(root: str) -> list[bytes]:
    """JPEG files of 500 x 375 pixels."""
    images = load_images(DataSpec("folder", root)).train_images[:DISTINCT]

    def photo(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        return file.getvalue()

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(photo, images))


def write_tar(path: Path, photos: list[bytes], count: int) -> Path:
    """An archive with ``count`` photos to train on, and TEST others, in two classes."""
    train_photos, test_photos = photos[TEST:], photos[:TEST]
    with tarfile.open(path, "w") as archive:
        for part, chosen, number in (("train", train_photos, count), ("test", test_photos, TEST)):
            for each in range(number):
                info = tarfile.TarInfo(f"{part}/{'ab'[each % 2]}/{each}.jpg")
                contents = chosen[each % len(chosen)]
                info.size = len(contents)
                archive.addfile(info, io.BytesIO(contents))
    return path


def product(photos: list[bytes]) -> None:
    for _ in decode_all(enumerate(photos), Sizing(SIZE)):
        pass


def pillow_alone(photos: list[bytes]) -> None:
    for photo in photos:
        decode(io.BytesIO(photo), Sizing(SIZE))


def with_torchvision(photos: list[bytes]) -> None:
    def decoded(photo: bytes) -> torch.Tensor:
        image = decode_jpeg(torch.frombuffer(bytearray(photo), dtype=torch.uint8), ImageReadMode.RGB)
        return functional.resize(image, [SIZE, SIZE], antialias=True)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(decoded, photos):
            pass


DECODERS: dict[str, Callable[[list[bytes]], None]] = {
    "lightning_vgg": product,
    "Pillow, one thread": pillow_alone,
    "torchvision, all cores": with_torchvision,
}


def speed(decoder: Callable[[list[bytes]], None], photos: list[bytes]) -> float:
    start = time.perf_counter()
    decoder(photos)
    return len(photos) / (time.perf_counter() - start)


def trained(settings: dict[str, Any], memory: float, peaks: list[int]) -> float:
    record, _ = train("lightning-vgg", CONFIG, settings, {"data.memory": memory})
    peaks.append(record["peak_memory_bytes"])
    return float(record["images_per_second"])


CONFIG = {"seed_everything": 0}

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    main()
