"""Features of all images, computed once and kept: an array on disk that is filled batch by batch.

::

    <cache>/features-<key>/
      features.npy    float32 or float64 (N, ...), channels last; the rows beyond progress.json's are not computed yet
      progress.json   what was computed (see `remember_features`), and the chunks that are: [rows, sha256] each

An interrupted extraction continues after its last chunk; a damaged chunk is computed again, with all that follow it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.locks import file_lock
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.backbone_plan import BackbonePlan
from lightning_vgg.experiment.specs import BackboneSpec, ModelSpec, NetworkSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.stored import Images, chunks
from lightning_vgg.runs.folder import atomic_write

FORMAT = 2  # raise it whenever the files, or the numbers that the same description gives, change

HEADLESS = NetworkSpec(filters=[], units=[])
"""Of an experiment whose features alone are wanted."""

Chunks = list[tuple[int, str]]


class LabelledFeatures(NamedTuple):
    """A backbone's features of images, float32 or float64 (N, H, W, C), and the images' labels, int64 (N,)."""

    features: np.ndarray
    labels: np.ndarray


def write_features(path: Path, features: Mapping[str, LabelledFeatures]) -> None:
    """One .npz: ``train`` and ``train_labels``, and so for each part."""
    arrays = {part: each.features for part, each in features.items()}
    arrays |= {f"{part}_labels": each.labels for part, each in features.items()}
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def require_backbone(spec: ModelSpec) -> BackboneSpec:
    """Raises:
    ExperimentError: there is none.
    """
    if spec.backbone is None:
        raise ExperimentError("there is no backbone to compute features with: name one by model.backbone.weights")
    return spec.backbone


_log = logging.getLogger(__name__)


_PIXELS_A_BATCH = 2**18
"""256 images of 32 px, 5 of 224 px. More are no faster on a CPU, and take memory."""


def say_features_are_not_kept(layers: int) -> None:
    """Print that features are not cached, for a backbone whose lowest ``layers`` never train."""
    print(
        f"data.augmentation is on: the {layers} frozen layers run in every epoch, features are not cached", flush=True
    )


def remember_backbone_features(
    cache: Path,
    plan: BackbonePlan,
    layers: int,
    tensors: Mapping[str, np.ndarray],
    images: Images,
    normalization: Normalization,
    dtype: np.dtype | type,
    compute: Callable[[slice], np.ndarray],
    part: str,
    **settings: str,
) -> np.ndarray:
    """What the lowest ``layers`` of a backbone make of images, (N, ..., C): `remember_features` of them.

    Args:
        cache, dtype, compute: see there.
        plan: the backbone.
        layers: how many of its layers.
        tensors: their weights and statistics.
        images: uint8 (N, S, S, 3).
        normalization: of the images.
        part: train, val or test.
        settings: the framework, the precision, and whatever else changes the numbers.
    """
    weights = hashlib.sha256()
    for name, tensor in tensors.items():
        weights.update(f"{name}{tensor.dtype}{tensor.shape}".encode())
        weights.update(np.ascontiguousarray(tensor).data)
    pixels = hashlib.sha256(repr(images.shape).encode())
    for chunk in chunks(images):
        pixels.update(chunk.data)
    description = {
        "weights": weights.hexdigest(),
        "layers": [repr((layer.name, layer.layer)) for layer in plan.layers[:layers]],
        "semantics": repr(plan.semantics),
        "pooling": plan.pooling if layers == len(plan.layers) else None,
        "image_size": plan.image_size,
        "images": pixels.hexdigest(),
        "normalization": [normalization.mean, normalization.std],
        **settings,
    }
    shape = (len(images), *plan.features_shape(layers))
    batch_size = max(1, _PIXELS_A_BATCH // plan.image_size**2)
    return remember_features(cache, description, shape, dtype, compute, batch_size, label=f"features of {part}")


def remember_features(
    cache: Path,
    description: PlainDict,
    shape: tuple[int, ...],
    dtype: np.dtype | type,
    compute: Callable[[slice], np.ndarray],
    batch_size: int,
    label: str = "features",
    flush_seconds: float = 2.0,
) -> np.ndarray:
    """The features that ``description`` describes, memory-mapped; rows that are missing are computed first.

    Two processes may ask for the same ones at the same time: one computes, the other waits.

    Args:
        cache: the folder that keeps them.
        description: plain values; whatever the numbers depend on must be in it.
        shape: (N, ...).
        dtype: float32 or float64.
        compute: the rows of a slice.
        batch_size: rows a call.
        label: in front of the progress bar.
        flush_seconds: how much work an interruption may cost.

    Raises:
        ExperimentError: the cache's disk is too full.
    """
    about = json.loads(json.dumps({"format": FORMAT, **description, "shape": shape, "dtype": np.dtype(dtype).name}))
    folder = cache / f"features-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]}"
    with _locked(folder):
        chunks = _sound_chunks(folder, shape, dtype)
        if sum(rows for rows, _ in chunks) < shape[0]:
            array = _array(folder, shape, dtype, keep=bool(chunks))
            _fill(folder, array, about, chunks, compute, batch_size, label, flush_seconds)
            del array
        # Private pages: torch wants an array that could be written, and nothing gets into the file.
        return np.load(folder / "features.npy", mmap_mode="c")


def _fill(
    folder: Path,
    array: np.memmap,
    about: PlainDict,
    chunks: Chunks,
    compute: Callable[[slice], np.ndarray],
    batch_size: int,
    label: str,
    flush_seconds: float,
) -> None:
    from tqdm import tqdm

    first = done = sum(rows for rows, _ in chunks)
    flushed = time.monotonic()
    with tqdm(total=len(array), initial=done, desc=label, unit=" images", disable=None) as bar:
        while done < len(array):
            rows = slice(done, min(done + batch_size, len(array)))
            array[rows] = compute(rows)
            bar.update(rows.stop - done)
            done = rows.stop
            if done == len(array) or time.monotonic() - flushed >= flush_seconds:
                array.flush()  # the rows are on the disk before the line that says so
                chunks = [*chunks, (done - first, _digest(array[first:done]))]
                with atomic_write(folder / "progress.json") as file:
                    file.write(json.dumps({**about, "chunks": chunks}, indent=1).encode())
                first, flushed = done, time.monotonic()


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def _sound_chunks(folder: Path, shape: tuple[int, ...], dtype: np.dtype | type) -> Chunks:
    """The chunks from the beginning whose rows are those that were written."""
    if not (folder / "progress.json").exists():
        return []
    chunks: Chunks = []
    try:
        array = np.load(folder / "features.npy", mmap_mode="r")
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}")
        first = 0
        for rows, digest in json.loads((folder / "progress.json").read_text())["chunks"]:
            if _digest(array[first : first + rows]) != digest:
                raise ValueError(f"from image {first} on they are not what was written")
            chunks.append((rows, digest))
            first += rows
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        _log.warning("The features in %s are damaged (%s); what is damaged is computed again.", folder, error)
    return chunks


def _array(folder: Path, shape: tuple[int, ...], dtype: np.dtype | type, keep: bool) -> np.memmap:
    path = folder / "features.npy"
    if keep:
        array = np.load(path, mmap_mode="r+")
        assert isinstance(array, np.memmap)
        return array
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(folder).free
    if size > free:  # writing through a memory map to a full disk would kill the process without a word
        raise ExperimentError(
            f"the features of {shape[0]} images take {size / 1e9:.1f} GB, and {folder.parent} has {free / 1e9:.1f} GB "
            "left: free some, name another folder by --data.cache_dir, or pool them (--model.backbone.pooling average)"
        )
    path.unlink(missing_ok=True)  # whoever has it open keeps what is open
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # neither Windows nor macOS has it
        with path.open("r+b") as file:  # all of it now: what others write later cannot take the room away
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time.

    Raises:
        ExperimentError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(folder / "lock").acquire()
    except OSError as error:
        raise ExperimentError(
            f"features cannot be kept in {folder.parent} ({error.strerror}): name another folder by --data.cache_dir"
        ) from None
    with lock:
        yield
