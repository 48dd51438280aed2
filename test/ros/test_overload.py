# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy that is slower than the control period."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from moody import SAFE, MoodyFleet, moody_parameters
from node_harness import Diagnostics, NodeProcess, Peer, command_values


class Slow(torch.nn.Module):
    """Commands the last two numbers of a reading, after some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.ns = int(seconds * 1e9)

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        """Return commands `[robots, 2]` for readings `[robots, 8]`."""
        end_ns = torch.ops.prim.TimePoint() + self.ns
        while torch.ops.prim.TimePoint() < end_ns:
            pass
        return touch[:, 6:]


@pytest.mark.parametrize("seconds", [0.3, pytest.param(0.12, marks=pytest.mark.slow)])
def test_a_policy_that_is_too_slow_is_named_at_configure_and_does_not_flood_the_log(
    seconds: float, peer: Peer, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    file = tmp_path / "slow.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Slow(seconds)).save(str(file))
    process = start_node(moody_parameters(file, ["robot"], synchronisation__max_age_s=0.2))
    fleet = MoodyFleet(peer, ["robot"])
    diagnostics = Diagnostics(peer)
    process.wait_for(
        r"WARN[^\n]*policy.path: one inference takes \d+.\d ms at configure [^\n]*, the control period is 50.0 ms: "
        + ("that is also longer than synchronisation.max_age_s" if seconds > 0.2 else "at most [^\n]* of 20 commands")
    )
    process.wait_for(r"\bactive: ")
    fleet.live(lambda: "overload: " in process.text, "the line about the overload")
    assert re.search(
        r"overload: \d+ of \d+ ticks were missed [^\n]*, infer \d+[^\n]*lower control_rate_hz", process.text
    )
    status = diagnostics.newest["policy_node: control"]
    assert "overload: " in status.message or "hangs" in status.message
    # Three more seconds of it add no more than what is logged once a minute.
    enough = fleet.number + 60
    fleet.live(lambda: fleet.number > enough, "more of it")
    after = process.text.partition("each driven once")[2]
    assert after.count("overload: ") == 1
    assert after.count("the tick hangs") <= 1
    assert len(re.findall(r"\[policy_node\]: robot", after)) <= 8, after
    if seconds > 0.2:
        assert {tuple(command_values(command)) for command in fleet.commands["robot"]} == {SAFE}
        assert "READY" not in after
