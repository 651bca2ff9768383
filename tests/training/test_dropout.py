"""Dropout in torch: the masks of the definition, in any layout and precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lightning_vgg.experiment.draws import layer_key, lowest_kept, mask_bits, mask_keys
from lightning_vgg.training.dropout import Dropout, set_mask_keys

KEYS = mask_keys(0, 0, np.arange(6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3,), (8,), (5, 7, 3), (2, 4, 4)], ids=str)
def test_masks_are_those_of_the_definition_in_every_layout(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = Dropout(0.3, "block1.dropout1")
    set_mask_keys(layer, torch.from_numpy(KEYS))
    bits = mask_bits(KEYS, layer_key("block1.dropout1"), int(np.prod(shape)))
    expected = torch.from_numpy(bits >= lowest_kept(0.3)).view(6, *shape).movedim(-1, 1).to(dtype) * (1 / 0.7)
    values = torch.randn(expected.shape, dtype=dtype)
    layouts = [values, values.clone().transpose(0, 1).contiguous().transpose(0, 1)]
    if values.ndim == 4:
        layouts.append(values.contiguous(memory_format=torch.channels_last))
    for inputs in layouts:
        inputs = inputs.requires_grad_()
        output = layer(inputs)
        assert output.dtype == dtype
        assert torch.equal(output, values * expected)
        output.sum().backward()
        assert inputs.grad is not None and torch.equal(inputs.grad, expected)
        inputs.grad = None


def test_without_keys_it_is_torchs_own_and_in_evaluation_it_does_nothing() -> None:
    layer, ones = Dropout(0.5, "block1.dropout1"), torch.ones(6, 100)
    torch.manual_seed(1)
    ours = layer(ones)
    torch.manual_seed(1)
    assert torch.equal(ours, nn.Dropout(0.5)(ones))
    set_mask_keys(layer, torch.from_numpy(KEYS))
    assert torch.equal(layer(ones), layer(ones))
    assert not torch.equal(layer(ones), ours)
    assert layer.eval()(ones) is ones
    assert Dropout(0.0, "block1.dropout1")(ones) is ones


def test_an_empty_share_of_a_batch() -> None:
    layer = Dropout(0.5, "block1.dropout1")
    set_mask_keys(layer, torch.empty(0, dtype=torch.int64))
    assert layer(torch.empty(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_all_dropout_layers_of_a_network_get_the_keys() -> None:
    network = nn.Sequential(nn.Sequential(Dropout(0.5, "a")), Dropout(0.5, "b"))
    set_mask_keys(network, torch.from_numpy(KEYS))
    first, second = (network[0](torch.ones(6, 64)), network[1](torch.ones(6, 64)))
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(first, second)
