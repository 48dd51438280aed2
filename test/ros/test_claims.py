# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Two nodes that command the same robot: both report it, the later one yields, and takes over when it may."""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Twist
from hypothesis import given
from hypothesis import strategies as st
from moody import MoodyFleet, moody_parameters, save_moody
from node_harness import Diagnostics, LifecycleClient, NodeProcess, Peer, command_values

from policy_node.cli.process_environment import transport_environment
from policy_node.config.parameters import CLAIMS_TOPIC
from policy_node.ros.ownership import EXPIRY_S, MOST_LINES, MOST_NODES, Claim, Claims

StartNode = Callable[..., NodeProcess]
# Offset of all commands of the second node, which tells its commands from those of the first.
OFFSET = 1e6


class Pair:
    """Two nodes with a robot that both command."""

    def __init__(self, peer: Peer, start_node: StartNode, policy: Path) -> None:
        self.fleet = MoodyFleet(peer, ["alone", "shared", "other"])
        self._start_node = start_node
        self._policy = policy

    def start_first(self, **changes: Any) -> NodeProcess:
        parameters = moody_parameters(self._policy, ["alone", "shared"], **changes)
        return self._start_node(parameters, name="first", alone=False)

    def start_second(self, **changes: Any) -> NodeProcess:
        # Another name of the same topic.
        changes |= {"action__offset": [OFFSET], "action__safe_command": [OFFSET, OFFSET]}
        parameters = moody_parameters(self._policy, ["/shared", "/other"], **changes)
        return self._start_node(parameters, name="second", alone=False)

    def driven_by(self, robot: str) -> str:
        """Return the node whose policy sent the newest command of a robot."""
        command = self.fleet.newest(robot)
        if command is None or command[0] < 0.0:
            return ""
        if command[0] == OFFSET:
            return ""
        return "second" if command[0] > OFFSET else "first"


@pytest.fixture
def pair(peer: Peer, start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    # As the launch files do: participants announce themselves so often that nodes find each other in time.
    for name, value in transport_environment().items():
        monkeypatch.setenv(name, value)
    return Pair(peer, start_node, save_moody(tmp_path / "moody.pt"))


@pytest.mark.both_distributions
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
    # Logged once at each activation.
    assert second.text.count("/first commands /shared, too") == 2
    assert "Traceback" not in first.text + second.text


@pytest.mark.both_distributions
def test_the_claim_of_a_node_that_died_expires(pair: Pair) -> None:
    first = pair.start_first()
    pair.fleet.live(lambda: pair.driven_by("shared") == "first", "commands of the first node")
    second = pair.start_second()
    second.wait_for("/first commands /shared, too: this node leaves them alone")
    first.send(signal.SIGKILL)
    pair.fleet.live(lambda: pair.driven_by("shared") == "second", "commands of the second node")
    second.wait_for("/first no longer commands /shared")


def test_nodes_may_claim_on_another_topic(pair: Pair, peer: Peer) -> None:
    """A relative one has the namespace of the node; the default lies in no node's private namespace."""
    assert CLAIMS_TOPIC.count("/") == 1
    pair.start_first(claims_topic="fleet_claims")
    pair.fleet.live(lambda: pair.driven_by("shared") == "first", "commands of the first node")
    second = pair.start_second(claims_topic="/fleet_claims")
    second.wait_for("/first commands /shared, too: this node leaves them alone")
    # The node of the test may discover the second one later than the first one does.
    peer.spin_until(lambda: peer.node.count_publishers("/fleet_claims") == 2, "the claims of both nodes")
    assert not peer.node.count_publishers(CLAIMS_TOPIC)


@pytest.mark.slow
@pytest.mark.both_distributions
def test_a_node_that_was_paused_sends_nothing_to_a_robot_that_another_took_over(pair: Pair) -> None:
    first = pair.start_first()
    pair.fleet.live(lambda: pair.driven_by("shared") == "first", "commands of the first node")
    second = pair.start_second()
    second.wait_for("/first commands /shared, too: this node leaves them alone")
    os.kill(first.pid, signal.SIGSTOP)
    pair.fleet.live(lambda: pair.driven_by("shared") == "second", "commands of the second node")
    pair.fleet.clear()
    os.kill(first.pid, signal.SIGCONT)
    pair.fleet.live(lambda: pair.driven_by("alone") == "first", "commands of the first node")
    assert all(command_values(command)[0] >= OFFSET for command in pair.fleet.commands["shared"])
    first.wait_for("/second commands shared, too: this node leaves them alone")


@pytest.mark.slow
@pytest.mark.both_distributions
def test_another_publisher_on_a_command_topic_is_reported_once(pair: Pair, peer: Peer) -> None:
    first = pair.start_first()
    second = pair.start_second()
    peer.node.create_publisher(Twist, "/alone/cmd_vel", 1)
    first.wait_for("/scripted_robots publishes on /alone/cmd_vel, too: alone obeys both; stop one")
    pair.fleet.live(lambda: pair.driven_by("other") == "second", "commands of the second node")
    # The policy nodes are not reported, although both publish on the topic of the shared robot.
    peer.spin_for(6.0)
    assert (first.text + second.text).count("obeys both") == 1


class Claimant:
    """A node that claims one robot, in this process."""

    def __init__(self, name: str) -> None:
        self.peer = Peer(name)
        self.claims = Claims(self.peer.node, {"robot": ["/robot/cmd_vel"]}, CLAIMS_TOPIC)
        self.changes: list[dict[int, str]] = []

    def begin(self) -> None:
        self.claims.begin(lambda owners: self.changes.append(dict(owners)))

    @property
    def owner(self) -> str:
        """The node that drives the robot, as far as this node knows."""
        return self.changes[-1].get(0, "") if self.changes else ""

    def destroy(self) -> None:
        self.claims.destroy()
        self.peer.destroy()


@pytest.fixture
def claimants(peer: Peer) -> Iterator[tuple[Claimant, Claimant]]:
    """Two nodes, the first of which claims the robot already."""
    first, second = Claimant("first"), Claimant("second")
    first.begin()
    second.begin()
    yield first, second
    for claimant in (first, second):
        claimant.destroy()


@pytest.mark.both_distributions
def test_a_claim_does_not_expire_while_the_executor_is_blocked(claimants: tuple[Claimant, Claimant]) -> None:
    first, second = claimants
    assert second.owner == "/first"
    # The executor of the second node is blocked while the first one repeats its claim.
    first.peer.spin_for(EXPIRY_S + 0.5)
    second.peer.spin_for(0.5)
    assert second.changes == [{0: "/first"}]


def test_a_node_that_was_paused_commands_nothing_before_it_has_listened(claimants: tuple[Claimant, Claimant]) -> None:
    first, second = claimants
    assert first.claims.holds
    second.peer.spin_until(lambda: not second.owner, "the end of the claim that nobody repeats")
    assert second.claims.holds and not first.claims.holds
    first.peer.spin_until(lambda: first.owner == "/second", "the new order")
    assert not first.claims.holds
    first.peer.spin_until(lambda: first.claims.holds, "the first node to have listened")
    assert first.owner == "/second"
    second.peer.spin_for(0.5)
    assert not second.owner


@pytest.mark.both_distributions
def test_two_nodes_that_claim_at_once_agree_before_either_commands(peer: Peer) -> None:
    claimants = Claimant("first"), Claimant("second")
    threads = [threading.Thread(target=claimant.begin) for claimant in claimants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimant.owner for claimant in claimants) in (["", "/first"], ["", "/second"])
    for claimant in claimants:
        claimant.destroy()


@pytest.mark.slow
def test_many_claims_are_neither_stored_nor_logged(
    peer: Peer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long this takes.
    for duration in ("LINES_PERIOD_S", "EXPIRY_S"):
        monkeypatch.setattr(f"policy_node.ros.ownership.{duration}", math.inf)
    claimant = Claimant("first")
    claimant.begin()
    hostile = peer.node.create_publisher(DiagnosticArray, CLAIMS_TOPIC, claimant.claims._publisher.qos_profile)
    peer.spin_until(hostile.get_subscription_count, "the subscription")
    topics = frozenset({"/robot/cmd_vel", *(f"/{topic}" for topic in range(100))})
    for number in range(3 * MOST_NODES):
        hostile.publish(Claim(f"/hostile_{number}", str(number), 1, topics).message())
        claimant.peer.spin_for(0.02, lambda: False)
    assert claimant.owner.startswith("/hostile")
    heard = claimant.claims._heard
    assert len(heard) == MOST_NODES
    assert all(claim.topics == {"/robot/cmd_vel"} for claim, _ in heard.values())
    assert capfd.readouterr().err.count("commands robot, too") <= MOST_LINES
    claimant.destroy()


def test_another_node_of_the_same_name_is_reported_once(peer: Peer, capfd: pytest.CaptureFixture[str]) -> None:
    claimant = Claimant("twin")
    other = peer.node.create_publisher(DiagnosticArray, CLAIMS_TOPIC, claimant.claims._publisher.qos_profile)
    peer.spin_until(other.get_subscription_count, "the subscription")
    twins = [
        Claim("/twin", identity, 0, frozenset({"/elsewhere"})) for identity in (f"pc-2:4711:{32 * 'a'}", "\x1b[2J:1:b")
    ]
    said = ""
    for _ in range(3):
        for twin in twins:
            other.publish(twin.message())
        claimant.peer.spin_for(0.2)
        said += capfd.readouterr().err
    assert said.count("there is another node of this name on pc-2, PID 4711: services and parameters of /twin") == 1
    # The computer of a node that does not tell it properly stays unknown.
    assert said.count("there is another node of this name: services") == 1 and "\x1b[2J" not in said
    claimant.destroy()


@pytest.mark.parametrize("name", ["", "/", "name", "/a//b", "/a\n", "/a\x1b[2J", "/ä", "/" + 600 * "a"])
def test_a_claim_without_a_valid_node_name_is_ignored(name: str) -> None:
    assert Claim.parse(Claim(name, "identity", 1, frozenset({"/robot/cmd_vel"})).message()) is None


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
names = st.from_regex(r"(/[A-Za-z0-9_]{1,9}){1,4}", fullmatch=True)


@pytest.mark.both_distributions
@given(st.builds(Claim, names, texts, st.integers(0, 10**19 - 1), st.frozensets(texts)))
def test_a_claim_survives_its_message(claim: Claim) -> None:
    assert Claim.parse(claim.message()) == claim


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
def test_any_message_parses_to_a_claim_or_none(statuses: list[DiagnosticStatus]) -> None:
    claim = Claim.parse(DiagnosticArray(status=statuses))
    assert claim is None or claim.owner == statuses[0].name


@given(st.lists(st.builds(Claim, texts, st.uuids().map(str), st.integers(1, 5), st.just(frozenset())), min_size=2))
def test_exactly_one_claim_precedes_all_others(claims: list[Claim]) -> None:
    claims = list({claim.identity: claim for claim in claims}.values())
    first = [claim for claim in claims if all(claim.precedes(other) for other in claims if other is not claim)]
    assert len(first) == 1
