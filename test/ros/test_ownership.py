# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Claims in one process with scripted time: who drives a robot, from when to when, and what the log says."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Twist
from node_harness import Peer

from policy_node.config.parameters import CLAIMS_TOPIC
from policy_node.ros import ownership
from policy_node.ros.ownership import (
    CROSSING_S,
    DISCOVERY_S,
    EXPIRY_S,
    HEARTBEAT_S,
    LINES_PERIOD_S,
    LISTEN_S,
    MOST_LINES,
    MOST_NODES,
    UNHEARD_S,
    Claim,
    Claims,
)

TOPICS = {f"robot_{robot}": f"/robot_{robot}/cmd_vel" for robot in range(3)}
ALL = tuple(TOPICS)
START_NS = 10**18


class Log(list[tuple[str, str]]):
    """A logger that keeps its lines."""

    def error(self, text: str) -> None:
        self.append(("error", text))

    def warning(self, text: str) -> None:
        self.append(("warning", text))

    def without_remedies(self) -> list[tuple[str, str]]:
        """Return the lines; those of errors must name the remedy."""
        remedy = "; stop one of the two, or give each its shard"
        assert all(text.endswith(remedy) for level, text in self if level == "error")
        return [(level, text.removesuffix(remedy)) for level, text in self]


class Rig:
    """The claims of one node, and other nodes that a test makes up."""

    def __init__(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 50.0
        clock = SimpleNamespace(sleep=self._sleep, time_ns=self.time_ns)
        monkeypatch.setattr(ownership, "time", clock)
        monkeypatch.setattr(ownership, "_now_s", lambda: self.now_s)
        self.slept_s: list[float] = []
        self.claims = Claims(peer.node, {robot: [topic] for robot, topic in TOPICS.items()}, CLAIMS_TOPIC)
        self.log = Log()
        self.claims._logger = self.log  # type: ignore[assignment]
        self.claims._stopping = SimpleNamespace(wait=self._sleep, is_set=lambda: False)  # type: ignore[assignment]
        self.sent: list[Claim | None] = []
        self._publisher = self.claims._publisher
        self.claims._publisher = SimpleNamespace(publish=self._note)  # type: ignore[assignment]
        self.changes: list[dict[int, str]] = []

    def _sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.now_s += duration_s

    def _note(self, message: DiagnosticArray) -> None:
        self.sent.append(Claim.parse(message))

    def time_ns(self) -> int:
        return START_NS + round(self.now_s * 1e9)

    def begin(self) -> None:
        self.claims.begin(lambda owners: self.changes.append(dict(owners)))

    @property
    def own(self) -> Claim:
        claim = self.sent[-1]
        assert claim is not None
        return claim

    def hear(self, name: str, activated_ns: int, robots: Any = ALL, identity: str = "") -> None:
        """Hear the claim of another node."""
        topics = frozenset(TOPICS.get(robot, robot) for robot in robots)
        self.claims._on_message(Claim(name, identity or name, activated_ns, topics).message())

    def beat(self, after_s: float = HEARTBEAT_S) -> None:
        self.now_s += after_s
        self.claims._beat()

    def destroy(self) -> None:
        self.claims._publisher = self._publisher
        self.claims.destroy()


@pytest.fixture
def rig(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(peer, monkeypatch)
    yield rig
    rig.destroy()


@pytest.fixture
def active(rig: Rig) -> Rig:
    """Return a node that has claimed its robots."""
    rig.begin()
    return rig


EARLIER, LATER = START_NS - 1, 2 * START_NS


def test_a_node_listens_before_and_after_it_claims(rig: Rig) -> None:
    rig.now_s += 0.5
    rig.hear("/first", EARLIER)
    assert not rig.changes and not rig.sent
    rig.begin()
    assert rig.slept_s == [DISCOVERY_S - 0.5, CROSSING_S]
    assert rig.own.activated_ns == START_NS + round((50.0 + DISCOVERY_S) * 1e9)
    assert rig.own.topics == set(TOPICS.values()) and rig.own.owner == "/scripted_robots"
    # Heard before it claimed.
    assert rig.changes == [dict.fromkeys(range(3), "/first")]


def test_loading_that_took_long_is_time_enough_to_listen(rig: Rig) -> None:
    rig.now_s += 2 * DISCOVERY_S
    rig.begin()
    assert rig.slept_s == [0.0, CROSSING_S]


def test_a_node_that_was_found_but_not_heard_is_waited_for(rig: Rig, peer: Peer) -> None:
    other = Peer("silent")
    publisher = other.node.create_publisher(DiagnosticArray, CLAIMS_TOPIC, ownership._qos(1))
    found = peer.node.get_publishers_info_by_topic
    peer.spin_until(lambda: "silent" in [each.node_name for each in found(CLAIMS_TOPIC)], "the publisher")
    rig.begin()
    assert sum(rig.slept_s) == pytest.approx(DISCOVERY_S + UNHEARD_S + CROSSING_S, abs=CROSSING_S)
    ((_, line),) = rig.log
    assert line.startswith(f"/silent: not heard on {CLAIMS_TOPIC} within 10 s; ")
    # Once it was heard, nobody is waited for.
    rig.claims.end()
    rig.slept_s.clear()
    publisher.publish(Claim("/silent", "silent", 0, frozenset()).message())
    peer.spin_until(lambda: "/silent" in [owner for owner, _ in rig.claims._claimants], "the claim")
    rig.begin()
    assert rig.slept_s == [0.0, CROSSING_S]
    other.destroy()


def test_the_earlier_node_drives_a_robot(active: Rig) -> None:
    active.hear("/later", LATER, ["robot_0", "robot_1"])
    assert active.changes == [{}] and not active.claims.yielded_robots
    assert active.claims.conflicts == dict.fromkeys(["robot_0", "robot_1"], "/later (yields)")
    active.hear("/earlier", EARLIER, ["robot_1", "robot_2"])
    assert active.changes[-1] == {1: "/earlier", 2: "/earlier"}
    assert active.claims.yielded_robots == ("robot_1", "robot_2")
    assert active.claims.conflicts == {
        "robot_0": "/later (yields)",
        "robot_1": "/later (yields), /earlier (drives it)",
        "robot_2": "/earlier (drives it)",
    }


def test_the_earliest_of_several_nodes_is_named(active: Rig) -> None:
    active.hear("/second", EARLIER)
    active.hear("/first", EARLIER - 1, ["robot_1"])
    active.hear("/third", EARLIER + 1)
    assert active.changes[-1] == {0: "/second", 1: "/first", 2: "/second"}


def test_claims_of_one_time_are_ordered_by_identity(active: Rig) -> None:
    own = active.own
    active.hear("/before", own.activated_ns, ["robot_0"], identity="")
    active.hear("/one", own.activated_ns, ["robot_1"], identity="!" + own.identity)
    active.hear("/two", own.activated_ns, ["robot_2"], identity="~" + own.identity)
    assert active.changes[-1] == {0: "/before", 1: "/one"} or active.changes[-1] == {1: "/one"}
    assert active.claims.conflicts["robot_2"] == "/two (yields)"


def test_own_claims_and_those_of_other_robots_are_no_conflict(active: Rig) -> None:
    active.claims._on_message(active.own.message())
    active.hear("/elsewhere", EARLIER, ["/elsewhere/cmd_vel"])
    active.hear("/idle", 0)
    active.claims._on_message(DiagnosticArray())
    assert not active.changes and not active.claims.conflicts and not active.log


def test_a_robot_comes_back_when_the_other_node_ends_its_claim_or_its_topics(active: Rig) -> None:
    active.hear("/first", EARLIER)
    active.hear("/first", EARLIER, ["robot_0", "/elsewhere/cmd_vel"])
    assert active.changes[-1] == {0: "/first"}
    active.hear("/first", EARLIER, ["/elsewhere/cmd_vel"])
    assert active.changes[-1] == {} and not active.claims.conflicts
    active.hear("/first", EARLIER)
    active.hear("/first", 0)
    assert active.changes[-2:] == [{0: "/first", 1: "/first", 2: "/first"}, {}]


def test_a_claim_that_is_not_repeated_ends(active: Rig) -> None:
    active.hear("/first", EARLIER)
    for _ in range(2):
        active.beat()
        assert active.changes[-1] == dict.fromkeys(range(3), "/first")
    active.hear("/first", EARLIER)
    for _ in range(2):
        active.beat()
    assert len(active.changes) == 1
    active.beat()
    assert active.changes[-1] == {} and len(active.changes) == 2
    assert EXPIRY_S == 3 * HEARTBEAT_S


def test_a_claim_is_repeated_as_it_is_and_holds_meanwhile(active: Rig) -> None:
    before = active.own
    for _ in range(3):
        assert active.claims.holds
        active.beat()
    assert active.own == before and len(active.sent) == 4
    active.now_s += EXPIRY_S
    assert not active.claims.holds
    active.now_s -= 1e-6
    assert active.claims.holds and not active.log


def test_after_a_pause_a_node_claims_as_the_latest_and_listens_first(active: Rig) -> None:
    before = active.own
    active.hear("/later", LATER)
    assert active.changes == [{}]
    active.beat(EXPIRY_S - CROSSING_S)
    assert active.own.activated_ns == active.time_ns() > before.activated_ns
    assert active.own.identity == before.identity
    assert "did not repeat its claim of the robots for 3.0 s" in active.log[-1][1]
    assert not active.claims.holds
    active.now_s += LISTEN_S
    assert active.claims.holds
    # What it knew of others before the pause is as new as the pause is over.
    active.hear("/third", LATER + 1)
    assert active.claims.conflicts["robot_0"].startswith("/later")


def test_a_node_that_took_over_during_a_pause_keeps_the_robot(active: Rig) -> None:
    during_ns = active.time_ns() + 10**9
    active.hear("/other", during_ns)
    assert active.changes == [{}]
    active.beat(EXPIRY_S)
    assert active.changes[-1] == dict.fromkeys(range(3), "/other")


def test_a_claim_that_has_ended_hears_nothing_and_is_not_repeated(active: Rig) -> None:
    active.hear("/first", EARLIER)
    active.claims.end()
    assert active.own.activated_ns == 0 and not active.claims.conflicts and not active.claims.yielded_robots
    sent, changes = len(active.sent), len(active.changes)
    active.beat()
    active.hear("/second", EARLIER)
    active.claims.end()
    assert (len(active.sent), len(active.changes)) == (sent, changes)


def test_a_node_that_begins_again_is_the_latest(active: Rig) -> None:
    first = active.own
    active.claims.end()
    active.hear("/other", LATER)
    active.now_s += 10.0
    active.hear("/other", first.activated_ns + 1)
    active.begin()
    assert active.own.activated_ns > first.activated_ns + 1
    assert active.changes[-1] == dict.fromkeys(range(3), "/other")


def test_nodes_that_have_gone_make_place_for_others(active: Rig) -> None:
    for node in range(MOST_NODES):
        active.hear(f"/node_{node}", LATER + node, ["robot_0"])
    active.hear("/too_many", EARLIER, ["robot_1"])
    assert active.changes[-1] == {}
    # One that is known is always heard.
    active.hear("/node_0", EARLIER, ["robot_0"])
    assert active.changes[-1] == {0: "/node_0"}
    active.now_s += EXPIRY_S / 2
    active.hear("/node_0", EARLIER, ["robot_0"])
    active.now_s += EXPIRY_S / 2
    active.hear("/next", EARLIER, ["robot_1"])
    assert active.changes[-1] == {0: "/node_0", 1: "/next"}
    assert len(active.claims._heard) == 2


def test_each_conflict_and_its_end_is_logged_once(active: Rig) -> None:
    for _ in range(2):
        active.hear("/first", EARLIER, ["robot_0", "robot_1"])
        active.hear("/later", LATER, ["robot_2"])
    assert active.log.without_remedies() == [
        ("error", "/first commands robot_0, robot_1, too: this node leaves them alone"),
        ("error", "/later commands robot_2, too: it came later and leaves them to this node"),
    ]
    active.log.clear()
    active.hear("/first", EARLIER, ["robot_1"])
    assert active.log.without_remedies() == [
        ("error", "/first commands robot_1, too: this node leaves them alone"),
        ("warning", "/first no longer commands robot_0; this node drives them again"),
    ]
    active.log.clear()
    active.hear("/later", 0)
    assert active.log == [("warning", "/later no longer commands robot_2")]


def test_frequent_changes_do_not_flood_the_log(active: Rig) -> None:
    for _ in range(MOST_LINES):
        active.hear("/first", EARLIER)
        active.hear("/first", 0)
    assert len(active.log) == MOST_LINES
    active.now_s += LINES_PERIOD_S + 0.001
    active.hear("/first", EARLIER)
    assert len(active.log) == MOST_LINES + 1


def test_foreign_publishers_are_named_once_for_each_topic(active: Rig, peer: Peer) -> None:
    own = [peer.node.create_publisher(Twist, topic, 1) for topic in TOPICS.values()]
    other = Peer("teleoperation")
    foreign = [other.node.create_publisher(Twist, TOPICS[robot], 1) for robot in ("robot_0", "robot_2")]
    count = peer.node.count_publishers
    peer.spin_until(lambda: count(TOPICS["robot_0"]) == count(TOPICS["robot_2"]) == 2, "the publishers")
    active.claims._name_foreign_publishers()
    active.claims._name_foreign_publishers()
    assert [text.split(";")[0] for _, text in active.log] == [
        f"/teleoperation publishes on {TOPICS[robot]}, too: {robot} obeys both" for robot in ("robot_0", "robot_2")
    ]
    active.log.clear()
    active.claims._foreign.clear()
    # A node that claims is no stranger.
    active.hear("/teleoperation", 0)
    active.claims._name_foreign_publishers()
    assert not active.log
    assert own and foreign
    other.destroy()


def status(*pairs: tuple[str, str], name: str = "/node", identity: str = "i") -> DiagnosticArray:
    values = [KeyValue(key=key, value=value) for key, value in pairs]
    return DiagnosticArray(status=[DiagnosticStatus(name=name, hardware_id=identity, values=values)])


@pytest.mark.parametrize("stamp", ["", "-1", "1.0", "1e3", "9" * 20, "one", " 1", "1\n", "١"])
def test_a_claim_without_a_valid_time_is_ignored(stamp: str) -> None:
    assert Claim.parse(status(("activated_ns", stamp))) is None


def test_what_is_not_exactly_one_claim_is_ignored() -> None:
    stamp = ("activated_ns", "9" * 19)
    good = status(stamp, ("command_topic", "/a"), ("else", "/b"), ("command_topic", "/c"))
    assert Claim.parse(good) == Claim("/node", "i", int("9" * 19), frozenset({"/a", "/c"}))
    assert Claim.parse(DiagnosticArray(status=[good.status[0]] * 2)) is None
    assert Claim.parse(status()) is None and Claim.parse(status(stamp, stamp)) is None
    longest = ownership.LONGEST_NAME
    assert Claim.parse(status(stamp, name="/" + (longest - 1) * "a", identity=longest * "i")) is not None
    assert Claim.parse(status(stamp, name="/" + longest * "a")) is None
    assert Claim.parse(status(stamp, identity=(longest + 1) * "i")) is None
