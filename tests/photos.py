"""Make folders of photos as people have them, in every layout, and train on each of them in both frameworks.

    python tests/photos.py --root IMAGES.tar.xz

The photos are real images, enlarged to odd sizes and saved in many formats: turned by EXIF, CMYK, transparent, grey,
16 bits, animated, without a suffix, with a wrong one. Among them lie files that are no photos, one that needs a
plugin, one that is empty, and a photo that is also a test image. The exit status is 1 where the two frameworks did not
see the same images, or where something was left out without a word.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.sources import ImageSet, load_images
from lightning_vgg.runs.folder import RunFolder

BIN = Path(sys.executable).parent
CLASSES = 4
COUNTS = {"train": 30, "val": 6, "test": 10}
"""Photos of each class."""
TRAINING = """
    --data.source folder --data.image_size 32 --data.resize pad --data.on_bad_image skip --data.batch_size 32
    --model.network.filters [8,16] --trainer.max_epochs 2 --trainer.logger false
""".split()
LEFT_OUT = {"phone.heic": "pillow-heif", "empty.jpg": "not an image"}
"""Photos that cannot be read -> what is said of them."""
UNUSED = ("notes.txt", "Thumbs.db", "loose.jpg")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(image: Image.Image) -> bytes:
    """Stored lying on its side, with the EXIF orientation that sets it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def transparent(image: Image.Image) -> bytes:
    image = image.convert("RGBA")
    image.putalpha(200)
    return saved(image, "PNG")


def sixteen_bits(image: Image.Image) -> bytes:
    return saved(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG")


def animated(image: Image.Image) -> bytes:
    return saved(image, "GIF", save_all=True, append_images=[image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])


FORMATS: list[tuple[str, Callable[[Image.Image], bytes]]] = [
    (".jpg", lambda image: saved(image, "JPEG", quality=90)),
    (".JPG", turned),
    (".jpeg", lambda image: saved(image.convert("CMYK"), "JPEG")),
    (".png", transparent),
    (".png", sixteen_bits),
    (".gif", animated),
    (".webp", lambda image: saved(image, "WEBP")),
    (".bmp", lambda image: saved(image.convert("L"), "BMP")),
    ("", lambda image: saved(image, "JPEG")),
    (".png", lambda image: saved(image, "JPEG")),
]


def photo(pixels: np.ndarray, number: int, chance: random.Random) -> tuple[str, bytes]:
    """Suffix and contents of a file."""
    size = chance.randint(90, 400), chance.randint(90, 400)
    suffix, save = FORMATS[number % len(FORMATS)]
    return suffix, save(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def write_parts(folder: Path, images: ImageSet, chance: random.Random) -> None:
    """``<part>/<class>/*``, and the odd files among them."""
    for label, name in enumerate(images.class_names[:CLASSES]):
        rows = iter(np.flatnonzero(images.train_labels == label))
        for part, count in COUNTS.items():
            below = folder / part / name
            below.mkdir(parents=True)
            for number in range(count):
                suffix, contents = photo(images.train_images[next(rows)], number, chance)
                (below / f"IMG {number:04}{suffix}").write_bytes(contents)
    first = folder / "train" / images.class_names[0]
    for name in LEFT_OUT:
        (first / name).write_bytes(b"\0\0\0\x18ftypheic" if name.endswith("heic") else b"")
    (first / "notes.txt").write_text("the blue one is mine")
    (first / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (first / ".ipynb_checkpoints").mkdir()
    shutil.copy(first / "IMG 0000.jpg", first / ".ipynb_checkpoints")
    shutil.copy(first / "IMG 0000.jpg", folder / "loose.jpg")
    shutil.copy(folder / "test" / images.class_names[0] / "IMG 0000.jpg", first / "seen before.jpg")


def own_validation(parts: Path, place: Path) -> Path:
    shutil.copytree(parts, place / "photos")
    (place / "photos/val").rename(place / "photos/validation")
    return place / "photos"


def no_validation(parts: Path, place: Path) -> Path:
    shutil.copytree(parts, place / "photos")
    shutil.rmtree(place / "photos/val")
    return place / "photos"


def no_test(parts: Path, place: Path) -> Path:
    shutil.copytree(parts, place / "photos")
    shutil.rmtree(place / "photos/test")
    return place / "photos"


def classes_alone(parts: Path, place: Path) -> Path:
    shutil.copytree(parts / "train", place / "photos")
    shutil.copy(parts / "loose.jpg", place / "photos")
    return place / "photos"


def archive(parts: Path, place: Path) -> Path:
    """With everything in one enclosing folder."""
    with zipfile.ZipFile(place / "photos.zip", "w") as file:
        for path in sorted(parts.rglob("*")):
            file.write(path, Path("My Photos", path.relative_to(parts)))
    return place / "photos.zip"


def table(parts: Path, place: Path) -> Path:
    """All photos in one folder, and a table of their classes."""
    with (place / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for path in sorted(parts.glob("*/*/*")):
            if path.is_file() and path.name not in UNUSED:
                name = f"{path.parts[-3]} {path.parts[-2]} {path.name}"
                shutil.copy(path, place / name)
                rows.writerow([name, path.parts[-2], path.parts[-3]])
    return place / "labels.csv"


LAYOUTS = {
    "train/, validation/, test/": own_validation,
    "train/, test/": no_validation,
    "train/, val/": no_test,
    "<class>/ alone": classes_alone,
    "a .zip of them": archive,
    "a .csv of paths": table,
}


def trained(program: str, root: Path, place: Path) -> RunFolder:
    command = [BIN / program, "fit", *TRAINING, "--data.root", root, "--data.cache_dir", place / "cache"]
    process = subprocess.run(
        [*map(str, command), "--name", program, "--trainer.default_root_dir", str(place)],
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise SystemExit(process.stdout + process.stderr)
    return RunFolder(place / "runs/vgg" / program)


def faults(records: list[dict[str, Any]], is_table: bool) -> list[str]:
    """What was not the same, or went without a word."""
    found = []
    for key in ("data_fingerprint", "images", "normalization", "images_remarks", "images_left_out"):
        if records[0].get(key) != records[1].get(key):
            found.append(f"{key} differs between the frameworks")
    said = json.dumps([records[0].get("images_remarks"), records[0].get("images_left_out")])
    found += [
        f"{name}: nothing about {word}" for name, word in LEFT_OUT.items() if word not in said or name not in said
    ]
    found += [] if is_table else [f"nothing about {name}" for name in UNUSED[:2] if name not in said]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="image folder or archive")
    parser.add_argument("--seed", type=int, default=0, help="of the photos' sizes")
    options = parser.parse_args()
    images = load_images(DataSpec("folder", options.root))
    rows, bad = Table("layout", "train", "val", "test", "test accuracy", "what was said"), 0
    with tempfile.TemporaryDirectory() as folder:
        parts = Path(folder, "parts")
        write_parts(parts, images, random.Random(options.seed))
        for name, make in LAYOUTS.items():
            place = Path(folder, make.__name__)
            place.mkdir()
            root = make(parts, place)
            records = [trained(program, root, place).read_record() for program in ("lightning-vgg", "keras-reference")]
            wrong = faults(records, root.suffix == ".csv")
            bad += len(wrong)
            counts = [str(records[0]["images"][part]) for part in COUNTS]
            accuracies = " / ".join(f"{record['test_acc']:.1%}" for record in records)
            left_out = [f"left out: {each}" for each in records[0].get("images_left_out", [])]
            said = [*wrong, *records[0].get("images_remarks", []), *left_out]
            rows.add_row(name, *counts, accuracies, "\n".join(said), end_section=True)
        Console(width=160).print(rows)
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
