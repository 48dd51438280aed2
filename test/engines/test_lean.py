# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""An exported network has few operations, and computes what PyTorch computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from policy_node.engines.lean import export_lean
from policy_node.policies.onnxruntime_network import make_session

ROBOTS = 3


class Eyes(nn.Module):
    """Convolutions on images of bytes, and numbers beside them, as Stable-Baselines3 has them."""

    def __init__(self, divides: bool = True) -> None:
        super().__init__()
        self._divides = divides
        self.convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.linear = nn.Linear(4 * 16 + 5, 2)

    def forward(self, image: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        pixels = image.permute(0, 3, 1, 2).float()
        pixels = pixels / 255.0 if self._divides else pixels * 0.5
        seen = torch.relu(self.convolution(pixels)).flatten(1)
        return self.linear(torch.cat([seen, numbers.flatten(1)], dim=1)).reshape(-1, 2).clone()


class TwoUses(Eyes):
    """The scaled pixels are used twice, so they must be there."""

    def forward(self, image: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        pixels = image.permute(0, 3, 1, 2).float() / 255.0
        return torch.relu(self.convolution(pixels)).flatten(1).sum(dim=1) + pixels.flatten(1).sum(dim=1)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (ROBOTS, 8, 8, 3), np.uint8))
    return image, torch.from_numpy(rng.normal(size=(ROBOTS, 5)).astype(np.float32))


def operations(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(content).graph.node)


@pytest.mark.parametrize("make", [Eyes, lambda: Eyes(divides=False), TwoUses])
def test_a_lean_network_computes_what_pytorch_computes(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network, given = make().eval(), inputs()
    content = export_lean(network, given, ["image", "numbers"], ["result"])
    session = make_session(content, torch.device("cpu"), [])
    used = {found.name for found in session.get_inputs()}
    (found,) = session.run(
        None, {name: each.numpy() for name, each in zip(["image", "numbers"], given, strict=True) if name in used}
    )
    with torch.no_grad():
        np.testing.assert_allclose(found, network(*given).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("divides", [True, False])
def test_factors_and_copies_are_no_operations(divides: bool) -> None:
    content = export_lean(Eyes(divides).eval(), inputs())
    found = operations(content)
    # One Flatten has something to do.
    assert found["Flatten"] + found["Reshape"] == 1
    assert not {"Div", "Mul", "Identity"} & {*found}


def test_a_factor_whose_result_is_used_twice_stays() -> None:
    assert operations(export_lean(TwoUses().eval(), inputs()))["Div"] == 1


def test_an_output_that_is_an_input_keeps_its_copy() -> None:
    class Passes(nn.Module):
        def forward(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return numbers.clone(), (numbers + 1.0).clone()

    (numbers,) = inputs()[1:]
    session = make_session(export_lean(Passes(), [numbers], ["given"], ["same", "more"]), torch.device("cpu"), [])
    same, more = session.run(None, {"given": numbers.numpy()})
    assert np.array_equal(same, numbers.numpy()) and np.array_equal(more, numbers.numpy() + 1.0)
