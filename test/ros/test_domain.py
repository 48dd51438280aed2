# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Programs reserve free ROS domains."""

import os
import socket
import subprocess
import sys

import pytest

from policy_node.ros import domain

RESERVE = "from policy_node.ros.domain import free_domain_id; print(free_domain_id(), flush=True); input()"


def test_programs_that_start_together_reserve_different_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if all had the same process id, at which each starts its search.
    program = f"import os; os.getpid = lambda: 7; {RESERVE}"
    programs = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        chosen = [each.stdout.readline() for each in programs if each.stdout is not None]
        assert len({int(line) for line in chosen}) == len(programs)
    finally:
        for each in programs:
            each.communicate("\n")
    # The reservations ended with the processes.
    monkeypatch.setattr(os, "getpid", lambda: int(chosen[0]) - 1)
    assert domain.free_domain_id() == int(chosen[0])


def test_a_domain_with_a_participant_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = domain.free_domain_id()
    domain._reservations.pop().close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7400 + 250 * free + domain.PARTICIPANT_PORT))
        monkeypatch.setattr(os, "getpid", lambda: free - 1)
        assert domain.free_domain_id() != free
