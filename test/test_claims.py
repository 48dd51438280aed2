# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Two nodes that command the same robot: both say so, the later one leaves it alone, and takes over when it may."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Twist
from hypothesis import given, settings
from hypothesis import strategies as st
from moody import MoodyFleet, moody_parameters, save_moody
from node_harness import Diagnostics, LifecycleClient, NodeProcess, Peer, command_values

from policy_node.ros.claims import Claim

StartNode = Callable[..., NodeProcess]
# What the second node adds to its commands, also to safe ones, so that one can tell whose a command is.
OFFSET = 1e6


class Pair:
    """Two nodes with a robot that both command."""

    def __init__(self, peer: Peer, start_node: StartNode, policy: Path) -> None:
        self.fleet = MoodyFleet(peer, ["alone", "shared", "other"])
        self._start_node = start_node
        self._policy = policy

    def start_first(self) -> NodeProcess:
        return self._start_node(moody_parameters(self._policy, ["alone", "shared"]), name="first")

    def start_second(self) -> NodeProcess:
        # Another name of the same topic.
        changes = {"action__offset": [OFFSET], "action__safe_command": [OFFSET, OFFSET]}
        parameters = moody_parameters(self._policy, ["/shared", "/other"], **changes)
        return self._start_node(parameters, name="second")

    def driven_by(self, robot: str) -> str:
        """Return who sent the newest command of a robot, if the policy did."""
        command = self.fleet.newest(robot)
        if command is None or command[0] < 0.0:
            return ""
        return "second" if command[0] >= OFFSET else "first"


@pytest.fixture
def pair(peer: Peer, start_node: StartNode, tmp_path: Path) -> Pair:
    return Pair(peer, start_node, save_moody(tmp_path / "moody.pt"))


def test_the_later_node_leaves_a_robot_to_the_earlier_one(pair: Pair, peer: Peer) -> None:
    fleet = pair.fleet
    diagnostics = Diagnostics(peer)
    first = pair.start_first()
    fleet.live(lambda: pair.driven_by("shared") == "first", "commands of the first node")
    fleet.clear()
    second = pair.start_second()
    fleet.live(lambda: pair.driven_by("other") == "second", "commands of the second node")
    fleet.live(lambda: len(fleet.commands["other"]) > 20, "more commands")
    # Not one command of the second node has reached the robot that the first one drives.
    assert all(command_values(command)[0] < OFFSET for command in fleet.commands["shared"])
    second.wait_for("/first commands /shared, too: this node leaves them alone; stop one of the two")
    first.wait_for("/second commands shared, too: it came later and leaves them to this node; stop one of the two")
    fleet.live(
        lambda: diagnostics.values("second: /shared").get("state") == "STOPPED", "the state in the second's diagnostics"
    )
    assert "/first commands it" in diagnostics.values("second: /shared")["reason"]
    fleet.live(lambda: "shared_also_commanded_by" in diagnostics.values("first: control"), "the first's diagnostics")
    assert diagnostics.values("first: control")["shared_also_commanded_by"] == "/second (yields)"
    assert diagnostics.values("second: control")["/shared_also_commanded_by"] == "/first (drives it)"

    # When the first one ends its claim, the second takes over; later than that, the first one is the later one.
    operator = LifecycleClient(peer, "/first")
    assert operator.change("deactivate")
    fleet.live(lambda: pair.driven_by("shared") == "second", "commands of the second node")
    second.wait_for("/first no longer commands /shared; this node drives them again")
    assert operator.change("activate")
    fleet.clear()
    fleet.live(lambda: pair.driven_by("alone") == "first", "commands of the first node")
    fleet.live(lambda: len(fleet.commands["alone"]) > 20, "more commands")
    assert all(command_values(command)[0] >= OFFSET for command in fleet.commands["shared"])
    first.wait_for("/second commands shared, too: this node leaves them alone")
    for process in (first, second):
        assert process.send(signal.SIGINT) == 0
    # Said once at each begin.
    assert second.text.count("/first commands /shared, too") == 2
    assert "Traceback" not in first.text + second.text


def test_the_claim_of_a_node_that_died_expires(pair: Pair) -> None:
    first = pair.start_first()
    pair.fleet.live(lambda: pair.driven_by("shared") == "first", "commands of the first node")
    second = pair.start_second()
    second.wait_for("/first commands /shared, too: this node leaves them alone")
    first.send(signal.SIGKILL)
    pair.fleet.live(lambda: pair.driven_by("shared") == "second", "commands of the second node")
    second.wait_for("/first no longer commands /shared")


def test_a_foreign_publisher_is_named_once(pair: Pair, peer: Peer) -> None:
    first = pair.start_first()
    second = pair.start_second()
    peer.node.create_publisher(Twist, "/alone/cmd_vel", 1)
    first.wait_for("/scripted_robots publishes on /alone/cmd_vel, too: alone does what either says; stop one")
    pair.fleet.live(lambda: pair.driven_by("other") == "second", "commands of the second node")
    # Nodes of this kind are none, although both publish on the topic of the shared robot.
    peer.spin_for(6.0)
    assert (first.text + second.text).count("does what either says") == 1


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@settings(deadline=None)
@given(st.builds(Claim, texts, texts, st.integers(0, 10**19 - 1), st.frozensets(texts)))
def test_a_claim_is_read_as_it_was_sent(claim: Claim) -> None:
    assert Claim.parse(claim.message()) == claim


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            lambda name, pairs: DiagnosticStatus(name=name, values=[KeyValue(key=k, value=v) for k, v in pairs]),
            texts,
            st.lists(st.tuples(st.sampled_from(["activated_ns", "command_topic", "x"]), texts), max_size=5),
        ),
        max_size=3,
    )
)
def test_any_message_is_a_claim_or_none(statuses: list[DiagnosticStatus]) -> None:
    claim = Claim.parse(DiagnosticArray(status=statuses))
    assert claim is None or claim.owner == statuses[0].name


@settings(deadline=None)
@given(st.lists(st.builds(Claim, texts, st.uuids().map(str), st.integers(1, 5), st.just(frozenset())), min_size=2))
def test_of_any_claims_exactly_one_precedes_all_others(claims: list[Claim]) -> None:
    claims = list({claim.identity: claim for claim in claims}.values())
    first = [claim for claim in claims if all(claim.precedes(other) for other in claims if other is not claim)]
    assert len(first) == 1
