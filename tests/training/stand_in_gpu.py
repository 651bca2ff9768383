"""A GPU by a stand-in, for machines without one: it says where the host would wait for a real one.

Its tensors hold CPU tensors, by which everything is really computed. torch takes them for tensors of its device
``meta``, which needs no driver. A host that launches work on a GPU goes on at once, unless it needs to know a result:
an item, an array, the size of something whose size depends on the data. It also waits while it copies from or to memory
that is not pinned.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_vgg.training import data
from lightning_vgg.training.checkpoints import AtomicCheckpoints

DEVICE = torch.device("meta")
DEPENDS_ON_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = ("aten::index", "aten::index_put")  # which depend on data only where a mask is the index

Waits = Counter[str]
"""What the host waited for, and in which line -> how often."""


class OnGPU(Tensor):
    """A tensor of the stand-in."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        tensor: OnGPU = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("a tensor of the stand-in outside of it")


class StandIn(TorchDispatchMode):
    """Computes on the CPU what is asked of the stand-in, and notes where the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Waits = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        from_gpu = any(isinstance(leaf, OnGPU) for leaf in tree_leaves((args, kwargs)))
        to_gpu = from_gpu if kwargs.get("device") is None else torch.device(kwargs["device"]) == DEVICE
        if reason := why_the_host_waits(operation, args, kwargs, from_gpu, to_gpu):
            self.waits[f"{reason} in {place()}"] += 1
        held_args, held_kwargs = tree_map_only(OnGPU, lambda tensor: tensor.held, (args, kwargs))
        if to_gpu and "device" in held_kwargs:
            held_kwargs["device"] = torch.device("cpu")
        result = operation(*held_args, **held_kwargs)
        if not to_gpu:
            return result
        result = tree_map_only(Tensor, lambda tensor: tensor if isinstance(tensor, OnGPU) else OnGPU(tensor), result)
        return return_and_correct_aliasing(operation, args, kwargs, result)


def why_the_host_waits(operation: Any, args: Any, kwargs: Any, from_gpu: bool, to_gpu: bool) -> str | None:
    name = operation.name().partition(".")[0].rstrip("_")
    if name in ("aten::_to_copy", "aten::copy"):
        target, source = (to_gpu, args[0]) if name == "aten::_to_copy" else (isinstance(args[0], OnGPU), args[1])
        if isinstance(source, OnGPU):
            return None if target else "a copy to the host"
        blocking = not (kwargs.get("non_blocking") or args[2:3] == (True,))
        return "a copy from memory that is not pinned" if target and (blocking or not is_pinned(source)) else None
    if not from_gpu or not DEPENDS_ON_DATA.intersection(operation.tags):
        return None
    if name in INDEXING and all(index.dtype != torch.bool for index in args[1] if index is not None):
        return None
    return name


def pinned(tensor: Tensor) -> Tensor:
    """In place of Tensor.pin_memory, which needs a GPU."""
    copy = tensor.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy


def is_pinned(tensor: Tensor) -> bool:
    return getattr(tensor, "pinned", False)


def place() -> str:
    """The innermost line that is neither torch's nor this file's."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if path != Path(__file__) and not {"torch", "lightning_utilities"}.intersection(path.parts):
            break
        frame = frame.f_back
    return f"{path.parent.name}/{path.name}:{frame.f_lineno}"


class PythonsOwn(TorchFunctionMode):
    """What torch does below the dispatcher."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is Tensor.new_tensor and isinstance(args[0], OnGPU):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(DEVICE)
        if function is Tensor.tolist:
            return args[0].cpu().tolist() if isinstance(args[0], OnGPU) else function(*args)
        return function(*args, **kwargs)


@contextmanager
def stand_in_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Inside, trainers train on the stand-in; gives the waits."""
    save = AtomicCheckpoints.save_checkpoint

    def save_from_host(self: AtomicCheckpoints, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        save(self, tree_map_only(OnGPU, lambda tensor: tensor.held.clone(), checkpoint), path)

    with monkeypatch.context() as patched:
        patched.setattr(SingleDeviceStrategy, "root_device", property(lambda _: DEVICE, lambda *_: None))
        patched.setattr(CPUAccelerator, "setup_device", lambda *_: None)
        patched.setattr(AtomicCheckpoints, "save_checkpoint", save_from_host)
        patched.setattr(sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["meta"])
        patched.setattr(data, "copies_from_pinned", lambda device: device == DEVICE)
        patched.setattr(Tensor, "pin_memory", pinned)
        with PythonsOwn(), StandIn() as stand_in:
            yield stand_in.waits
