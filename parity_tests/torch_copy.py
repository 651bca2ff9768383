"""A torch module as a copy in float64, without dropout, that shows what each layer does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_vgg.common.errors import ExperimentError
from parity_tests.matching import WeightedLayer
from parity_tests.pair import Tensors
from parity_tests.traces import MOMENTUM, RATE, Trace

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class TorchCopy:
    """Of a torch module, on the CPU.

    Args:
        module: images (B, C, H, W) -> outputs; stays as it is.
        penalty: what its training loss has beside the cross-entropy.
    """

    def __init__(self, module: nn.Module, penalty: Callable[[nn.Module], torch.Tensor | float] | None = None) -> None:
        self.module = deepcopy(module).cpu().double().requires_grad_(True)
        self.penalty = penalty
        for each in self.module.modules():
            if isinstance(each, _DROPOUTS):
                each.p = 0.0

    def twin(self) -> TorchCopy:
        return TorchCopy(self.module, self.penalty)

    def layers(self, images: np.ndarray) -> list[WeightedLayer]:
        """Those with weights, in the order of their calls.

        Raises:
            ExperimentError: one is called twice, or not at all.
        """
        made_by: dict[Any, str] = {}
        before: dict[str, frozenset[str]] = {}

        def enter(name: str, inputs: torch.Tensor) -> None:
            if name in before:
                raise ExperimentError(
                    f"torch's layer {name} is called twice: only layers that are called once are known"
                )
            before[name] = frozenset(_nearest(inputs.grad_fn, made_by))

        def leave(name: str, outputs: torch.Tensor) -> None:
            made_by[outputs.grad_fn] = name

        with self._hooked(enter, leave):
            self.module.eval()(_nchw(images).requires_grad_())
        if idle := [name for name in self._weighted() if name not in before]:
            raise ExperimentError(f"torch's layer {idle[0]} has weights, but is not called")
        tensors = self.tensors()
        return [
            WeightedLayer(name, {role: tensors[f"{name}.{role}"] for role in self._roles(name)}, around)
            for name, around in before.items()
        ]

    def tensors(self) -> Tensors:
        return {
            f"{name}.{role}": module.state_dict()[role].numpy().copy()
            for name, module in self._weighted().items()
            for role in self._roles(name)
        }

    def trace(self, images: np.ndarray, training: bool) -> Trace:
        """Statistics of batch norm move in training."""
        found = Trace()

        def enter(name: str, inputs: torch.Tensor) -> None:
            found.inputs[name] = _channels_last(inputs)

        def leave(name: str, outputs: torch.Tensor) -> None:
            found.outputs[name] = _channels_last(outputs)

        with self._hooked(enter, leave), torch.no_grad():
            found.result = _channels_last(self.module.train(training)(_nchw(images)))
        return found

    def loss_and_gradients(
        self, images: np.ndarray, labels: np.ndarray, smoothing: float
    ) -> tuple[np.ndarray, Tensors]:
        """The training loss, in training mode; the statistics move."""
        self.module.zero_grad()
        loss = self._loss(images, labels, smoothing)
        loss.backward()
        gradients = {
            f"{name}.{role}": parameter.grad.numpy().copy()
            for name, module in self._weighted().items()
            for role, parameter in module.named_parameters(recurse=False)
            if parameter.grad is not None
        }
        return loss.detach().numpy(), gradients

    def train(self, images: np.ndarray, labels: np.ndarray, smoothing: float, steps: int) -> None:
        """By SGD with momentum."""
        optimizer = torch.optim.SGD(self.module.parameters(), RATE, MOMENTUM)
        for _ in range(steps):
            optimizer.zero_grad()
            self._loss(images, labels, smoothing).backward()
            optimizer.step()

    def _loss(self, images: np.ndarray, labels: np.ndarray, smoothing: float) -> torch.Tensor:
        outputs = self.module.train()(_nchw(images))
        loss = nn.functional.cross_entropy(outputs, torch.from_numpy(labels), label_smoothing=smoothing)
        return loss + self.penalty(self.module) if self.penalty else loss

    def _weighted(self) -> dict[str, nn.Module]:
        return {name: module for name, module in self.module.named_modules() if self._own(module)}

    def _roles(self, name: str) -> list[str]:
        return self._own(self.module.get_submodule(name))

    @staticmethod
    def _own(module: nn.Module) -> list[str]:
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        return [role for role, tensor in tensors if tensor.is_floating_point()]

    @contextmanager
    def _hooked(
        self, enter: Callable[[str, torch.Tensor], None], leave: Callable[[str, torch.Tensor], None]
    ) -> Iterator[None]:
        hooks = []
        for name, module in self._weighted().items():
            hooks.append(module.register_forward_pre_hook(lambda _, inputs, name=name: enter(name, inputs[0])))
            activation = getattr(module, "activation", None)
            if isinstance(activation, nn.Module):
                hooks.append(activation.register_forward_pre_hook(lambda _, inputs, name=name: leave(name, inputs[0])))
            else:
                hooks.append(module.register_forward_hook(lambda _, inputs, outputs, name=name: leave(name, outputs)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _nearest(node: Any, made_by: Mapping[Any, str]) -> set[str]:
    """The layers that made what a node of the autograd graph is computed from, with no other of them in between."""
    found, seen, waiting = set(), set(), [node]
    while waiting:
        node = waiting.pop()
        if node in made_by:
            found.add(made_by[node])
        elif node is not None and node not in seen:
            seen.add(node)
            waiting += [below for below, _ in node.next_functions]
    return found


def _nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _channels_last(values: torch.Tensor) -> np.ndarray:
    copied = values.detach().numpy().copy()
    return np.moveaxis(copied, 1, -1) if copied.ndim == 4 else copied
