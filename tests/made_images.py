"""Images of every kind, and small sets of them as folders and archives, for tests."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.sources import ImageSet, load_images

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated_jpeg() -> bytes:
    """Red above blue as it is to be seen; stored turned, with the EXIF orientation that turns it back."""
    image = Image.new("RGB", (32, 32), RED)
    image.paste(BLUE, (0, 16, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def grey16(kind: str = "PNG") -> bytes:
    return encoded(Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)), kind)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (0, 0, 4, 2))
    return encoded(image, "PNG", transparency=0)


def half_transparent() -> bytes:
    image = Image.new("RGBA", (4, 4), (*RED, 0))
    image.paste((200, 100, 50, 255), (0, 0, 4, 2))
    return encoded(image, "PNG")


def animation() -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (GREEN, RED)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


ODD_IMAGES = {  # file name: (contents, colour of the top, colour of the bottom)
    "grey.png": (encoded(Image.new("L", (4, 4), 77), "PNG"), (77,) * 3, (77,) * 3),
    "bilevel.png": (encoded(Image.new("1", (4, 4), 1), "PNG"), (255,) * 3, (255,) * 3),
    "palette.png": (palette_with_transparency(), GREEN, BLACK),
    "rgba.png": (half_transparent(), (200, 100, 50), BLACK),
    "grey_alpha.png": (encoded(Image.new("LA", (4, 4), (200, 0)), "PNG"), BLACK, BLACK),
    "grey16.png": (grey16(), (0x80,) * 3, (0x80,) * 3),
    "grey16.tif": (grey16("TIFF"), (0x80,) * 3, (0x80,) * 3),
    "grey16.pgm": (b"P5 4 4 65535\n" + b"\x80\xff" * 16, (0x80,) * 3, (0x80,) * 3),
    "cmyk.jpg": (encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95), RED, RED),
    "turned.JPG": (rotated_jpeg(), RED, BLUE),
    "animation.gif": (animation(), GREEN, GREEN),
    "png_by_another_name.jpg": (encoded(Image.new("RGB", (4, 4), RED), "PNG"), RED, RED),
    "one_pixel.bmp": (encoded(Image.new("RGB", (1, 1), BLUE), "BMP"), BLUE, BLUE),
    "wide.webp": (encoded(Image.new("RGB", (90, 20), GREEN), "WEBP", lossless=True), GREEN, GREEN),
}


Files = dict[str, bytes]


def write(root: Path, files: Files) -> Path:
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return root


def make_tar(path: Path, files: Files) -> Path:
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:
        for name, contents in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return path


def make_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, contents in files.items():
            archive.writestr(name, contents)
    return path


def make(path: Path, files: Files) -> Path:
    """The files as a folder or an archive, as the suffix says; an archive's members come in reverse order."""
    backwards = dict(reversed(files.items()))
    if path.suffix == ".zip":
        return make_zip(path, backwards)
    return make_tar(path, backwards) if path.suffix else write(path, files)


def png(shade: int) -> bytes:
    return encoded(Image.new("L", (4, 4), shade), "PNG")


def small_set() -> Files:
    """Two classes, three training images and one test image each."""
    return {
        f"{split}/{label}/{i}.png": png(100 * (label == "dog") + 10 * (split == "test") + i)
        for split, count in (("train", 3), ("test", 1))
        for label in ("cat", "dog")
        for i in range(count)
    }


def load(path: Path, image_size: int = 4) -> ImageSet:
    return load_images(DataSpec("folder", root=str(path), image_size=image_size, cache_dir=str(path.parent / "cache")))


def without(*starts: str) -> Files:
    return {name: contents for name, contents in small_set().items() if not name.startswith(starts)}


def noise(folder: Path, size: int, train: int, test: int) -> Path:
    """A folder of images of noise in two classes."""
    random = np.random.default_rng(0)
    files = {
        f"{part}/{'ab'[number % 2]}/{number}.png": encoded(
            Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)), "PNG"
        )
        for part, count in (("train", train), ("test", test))
        for number in range(count)
    }
    return write(folder, files)
