# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Claims of several nodes in one process with scripted time: who drives a robot, who yields, and what is logged."""

import os
import platform
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from policy_node.ros import ownership
from policy_node.ros.ownership import (
    ACKNOWLEDGE_S,
    CROSSING_S,
    DISCOVERY_S,
    EXPIRY_S,
    FOREIGN_PERIOD_S,
    HEARTBEAT_S,
    LINES_PERIOD_S,
    LISTEN_S,
    LONGEST_NAME,
    MOST_LINES,
    MOST_NODES,
    MOST_RENEWALS,
    RENEWAL_S,
    SETTLE_S,
    UNHEARD_S,
    Claim,
    Claims,
)
from policy_node.ros.process import Interrupted

# Exact as floating-point numbers, as are all times of these tests.
A_MOMENT_S = 0.0625


class World:
    """The time since boot, the system's clock, the topic of the claims, and the signal that ends a process."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.members: list[Member] = []
        #: Durations that were waited for, and what happens meanwhile.
        self.waits_s: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.is_interrupted = False
        #: The newest message of each publisher, which later subscriptions hear, too.
        self.newest: dict[str, DiagnosticArray] = {}

    def clock_gettime(self, clock: int) -> float:
        assert clock == time.CLOCK_BOOTTIME
        return self.now_s

    def time_ns(self) -> int:
        return 10**18 + round(self.now_s * 1e9)

    def sleep(self, duration_s: float) -> None:
        self.waits_s.append(duration_s)

    def wait(self, duration_s: float) -> None:
        self.waits_s.append(duration_s)
        self.now_s += duration_s
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()

    def is_set(self) -> bool:
        return self.is_interrupted

    def publish(self, message: DiagnosticArray) -> None:
        self.newest[message.status[0].hardware_id] = message
        for member in self.members:
            member.queue.append(message)


class Member:
    """A node that claims robots; its executor runs when the test says so."""

    def __init__(self, world: World, name: str, *robots: str, can_take: bool = True) -> None:
        self.queue = deque(world.newest.values())
        self.published: list[Claim] = []
        self.lines: list[tuple[str, str]] = []
        self.destroyed: list[Any] = []
        self.publishers: dict[str, list[tuple[str, str]]] = {}
        self.changes: list[dict[int, str]] = []
        self.subscribed = 0
        self._world = world
        self._name = name
        self.claims_name = name.lstrip("/")
        self._can_take = can_take
        world.members.append(self)
        topics = {robot: [f"/{robot}/cmd_vel"] for robot in robots or ("robot",)}
        self.claims = Claims(self, topics, "claims", world)  # type: ignore[arg-type]

    # The parts of a node that claims need.

    def get_logger(self) -> Any:
        return SimpleNamespace(
            error=lambda text: self.lines.append(("error", text)),
            warning=lambda text, once=False: self.lines.append(("warning", text)),
        )

    def get_fully_qualified_name(self) -> str:
        return self._name

    def create_publisher(self, message_type: type, topic: str, qos: Any, event_callbacks: Any) -> Any:
        assert (message_type, topic) == (DiagnosticArray, "claims")

        def publish(message: DiagnosticArray) -> None:
            claim = Claim.parse(message)
            assert claim is not None
            self.published.append(claim)
            self._world.publish(message)

        def wait(timeout: Duration) -> None:
            self._world.waits_s.append(timeout.nanoseconds / 1e9)

        self.publisher = SimpleNamespace(publish=publish, qos=qos, wait_for_all_acked=wait)
        return self.publisher

    def create_subscription(self, message_type: type, topic: str, callback: Callable[..., None], qos: Any) -> Any:
        assert (message_type, topic) == (DiagnosticArray, "/claims")
        self._callback = callback
        self.subscribed += 1
        stamps = {"source_timestamp": 0, "received_timestamp": 0}

        def take(message_type: type, raw: bool) -> tuple[DiagnosticArray, dict[str, int]] | None:
            return (self.queue.popleft(), stamps) if self.queue else None

        handle = SimpleNamespace(take_message=take) if self._can_take else None
        self.subscription = SimpleNamespace(handle=handle, msg_type=message_type, raw=False, qos=qos)
        return self.subscription

    def create_timer(self, period_s: float, callback: Callable[[], None], clock: Any) -> Any:
        self.timer = SimpleNamespace(period_s=period_s, call=callback, clock=clock)
        return self.timer

    def count_publishers(self, topic: str) -> int:
        return len(self.publishers.get(topic, ()))

    def resolve_topic_name(self, topic: str) -> str:
        return f"/{topic}"

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        names = self.publishers.get(topic, [])
        if topic == "/claims":
            names = [*names, *(("/", member.claims_name) for member in self._world.members)]
        else:
            assert self.count_publishers(topic) > 1, "slow, and mostly in vain"
        return [SimpleNamespace(node_namespace=space, node_name=name) for space, name in names]

    def destroy_timer(self, timer: Any) -> None:
        self.destroyed.append(timer)

    destroy_publisher = destroy_subscription = destroy_timer

    # What happens to it.

    def begin(self) -> None:
        self.claims.begin(lambda owners: self.changes.append(dict(owners)))

    def spin(self) -> None:
        """Let the executor handle all messages."""
        while self.queue:
            self._callback(self.queue.popleft())

    def hear(self, *claims: Claim) -> None:
        self.queue.extend(claim.message() for claim in claims)
        self.spin()

    def beat(self) -> None:
        self.timer.call()

    def look_for_others(self, *claims: Claim) -> None:
        """Run the node until it has looked for other publishers, while others repeat their claims."""
        for _ in range(round(FOREIGN_PERIOD_S / HEARTBEAT_S)):
            self._world.now_s += HEARTBEAT_S
            self.hear(*claims)
            self.beat()

    def texts(self) -> list[str]:
        """Return the beginnings of the lines since the last call."""
        lines, self.lines = self.lines, []
        return [f"{level}: {text.split(';')[0]}" for level, text in lines]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(ownership, "time", world)
    return world


def begun(world: World, name: str = "/node", *robots: str, **options: Any) -> Member:
    """Return a node that has claimed its robots for a while."""
    member = Member(world, name, *robots, **options)
    member.begin()
    member.spin()
    world.now_s += A_MOMENT_S
    return member


def rival(name: str, member: Member, *robots: str, before: bool, identity: str = "") -> Claim:
    """Return the claim of another node, before or after that of a member."""
    activated_ns = member.published[-1].activated_ns + (-1 if before else 1)
    topics = frozenset(f"/{robot}/cmd_vel" for robot in robots or ("robot",))
    return Claim(name, identity or name, activated_ns, topics)


# The order of the claims.


def test_the_earlier_claim_comes_first_and_of_equal_ones_one(world: World) -> None:
    early, late = Claim("/z", "z", 1, frozenset()), Claim("/a", "a", 2, frozenset())
    assert early.precedes(late) and not late.precedes(early)
    twin = Claim("/z", "a", 1, frozenset())
    assert twin.precedes(early) and not early.precedes(twin) and not early.precedes(early)


def test_a_node_alone_drives_its_robots_although_it_hears_itself(world: World) -> None:
    member = begun(world)
    for _ in range(5):
        world.now_s += 1.0
        member.beat()
        member.spin()
    assert not member.changes and not member.lines and not member.claims.conflicts and member.claims.holds


def test_a_node_listens_before_it_claims_and_once_more_before_it_commands(world: World) -> None:
    member = Member(world, "/node")
    assert [claim.activated_ns for claim in member.published] == [0]
    world.now_s += 0.5
    member.begin()
    assert world.waits_s == [DISCOVERY_S - 0.5, CROSSING_S]
    assert [claim.activated_ns for claim in member.published[1:]] == [10**18 + round((1000.0 + DISCOVERY_S) * 1e9)]
    assert member.published[-1] == Claim(
        "/node", member.published[0].identity, member.published[-1].activated_ns, frozenset({"/robot/cmd_vel"})
    )
    # Loading a policy takes longer than the discovery.
    world.waits_s.clear()
    member = Member(world, "/other")
    world.now_s += DISCOVERY_S + 0.5
    member.begin()
    assert world.waits_s == [0.0, CROSSING_S]


def test_a_node_that_is_known_but_was_not_heard_is_waited_for(world: World) -> None:
    member = Member(world, "/node")
    member.publishers["/claims"] = [("/fleet", "early"), ("/", "early"), ("/", "node")]
    claim = Claim("/fleet/early", "early", 1, frozenset({"/robot/cmd_vel"}))
    # Nodes of other robots, also of the same name, are heard as well.
    member.queue.append(Claim("/node", "another", 1, frozenset({"/other/cmd_vel"})).message())
    member.queue.append(replace(claim, owner="/early", topics=frozenset()).message())
    waits_s = [DISCOVERY_S, CROSSING_S, CROSSING_S, CROSSING_S]

    def hear_at_last() -> None:
        if len(world.waits_s) == len(waits_s) - 1:
            member.queue.append(claim.message())
        else:
            world.meanwhile = hear_at_last

    world.meanwhile = hear_at_last
    member.begin()
    assert world.waits_s == waits_s and member.changes == [{0: "/fleet/early"}]
    assert member.texts()[1:] == ["error: /fleet/early commands robot, too: this node leaves them alone"]


def test_a_node_that_is_never_heard_delays_the_claim_and_is_named(world: World) -> None:
    member = Member(world, "/node")
    member.publishers["/claims"] = [("/fleet", "silent"), ("/", "node")]
    member.begin()
    assert sum(world.waits_s) == pytest.approx(DISCOVERY_S + UNHEARD_S + CROSSING_S, abs=CROSSING_S)
    assert member.texts() == ["warning: /fleet/silent, /node: not heard on /claims within 10 s"]
    assert member.published[-1].activated_ns and not member.changes
    # A publisher may not know of the subscription.
    before = member.subscribed
    assert before >= UNHEARD_S / RENEWAL_S
    member.look_for_others()
    assert member.subscribed == before + 1
    for _ in range(2 * MOST_RENEWALS):
        member.look_for_others()
    assert member.subscribed == 1 + MOST_RENEWALS
    member.claims.destroy()
    assert member.destroyed.count(member.subscription) == 1
    assert len(member.destroyed) == 2 + member.subscribed


def test_nodes_of_one_name_are_different_ones(world: World) -> None:
    first, second = begun(world), begun(world)
    assert first.published[0].identity != second.published[0].identity
    (owners,) = second.changes
    assert owners == {0: f"/node (another node of this name on {platform.node()}, PID {os.getpid()})"}


@pytest.mark.parametrize("at", [DISCOVERY_S, CROSSING_S])
def test_a_signal_ends_listening(world: World, at: float) -> None:
    member = Member(world, "/node")

    def interrupt() -> None:
        world.is_interrupted = True

    if at == DISCOVERY_S:
        world.meanwhile = interrupt
    else:
        world.meanwhile = lambda: setattr(world, "meanwhile", interrupt)
    with pytest.raises(Interrupted):
        member.begin()
    assert world.waits_s[-1] == at
    assert [bool(claim.activated_ns) for claim in member.published] == [False, at == CROSSING_S][: len(world.waits_s)]


def test_the_later_node_yields_before_it_commands_and_the_earlier_one_hears_of_it(world: World) -> None:
    first = begun(world, "/first")
    second = Member(world, "/second")
    first.beat()
    second.begin()
    assert second.changes == [{0: "/first"}]
    assert second.claims.conflicts == {"robot": "/first (drives it)"} and second.claims.yielded_robots == ("robot",)
    assert second.texts() == ["error: /first commands robot, too: this node leaves them alone"]
    first.spin()
    assert first.changes == [{}]
    assert first.claims.conflicts == {"robot": "/second (yields)"} and not first.claims.yielded_robots
    assert first.texts() == ["error: /second commands robot, too: it came later and leaves them to this node"]
    first.beat()
    for _ in range(5):
        world.now_s += 1.0
        for member in (first, second):
            member.beat()
            member.spin()
    assert first.changes == [{}] and second.changes == [{0: "/first"}]
    assert not first.lines and not second.lines


def test_two_nodes_that_claim_at_once_agree_before_either_commands(world: World) -> None:
    first, second = Member(world, "/first"), Member(world, "/second")

    def cross() -> None:
        world.now_s += A_MOMENT_S
        second.begin()

    # The second one claims while the first one listens after its claim.
    world.meanwhile = lambda: setattr(world, "meanwhile", cross)
    first.begin()
    assert first.changes == [{}] and second.changes == [{0: "/first"}]


def test_the_first_of_several_nodes_drives_a_robot_however_they_are_heard(world: World) -> None:
    claims = [Claim(f"/node_{number}", str(number), number, frozenset({"/robot/cmd_vel"})) for number in (2, 1, 3)]
    for ordered in (claims, claims[::-1]):
        world.newest.clear()
        member = begun(world)
        member.hear(*ordered)
        assert member.changes[-1] == {0: "/node_1"}
        assert sorted(member.claims.conflicts["robot"].split(", ")) == [
            f"/node_{number} (drives it)" for number in (1, 2, 3)
        ]


def test_each_robot_has_its_own_order(world: World) -> None:
    member = begun(world, "/node", "a", "b", "c", "d")
    # Robots of others are of no interest.
    member.hear(
        rival("/early", member, "b", "c", "x", before=True), rival("/late", member, "c", "d", "y", before=False)
    )
    assert member.changes[-1] == {1: "/early", 2: "/early"}
    assert member.claims.conflicts == {
        "b": "/early (drives it)",
        "c": "/early (drives it), /late (yields)",
        "d": "/late (yields)",
    }
    assert member.claims.yielded_robots == ("b", "c")
    assert member.texts() == [
        "error: /early commands b, c, too: this node leaves them alone",
        "error: /late commands c, d, too: it came later and leaves them to this node",
    ]


def test_two_names_of_one_topic_are_two_robots_of_one_owner(world: World) -> None:
    member = Member(world, "/node", "robot")
    claims = Claims(member, {"robot": ["/robot/cmd_vel"], "again": ["/robot/cmd_vel"]}, "claims", world)  # type: ignore[arg-type]
    changes: list[dict[int, str]] = []
    claims.begin(lambda owners: changes.append(dict(owners)))
    member.hear(Claim("/early", "early", 1, frozenset({"/robot/cmd_vel"})))
    assert changes == [{0: "/early", 1: "/early"}]


# Changes of the claims of others.


def test_a_claim_of_fewer_or_more_robots_is_a_change(world: World) -> None:
    member = begun(world, "/node", "a", "b", "c")
    for robots, owners, lines in (
        (("a", "b"), {0: "/early", 1: "/early"}, ["error: /early commands a, b, too: this node leaves them alone"]),
        (("a", "b"), {0: "/early", 1: "/early"}, []),
        (
            ("b", "c"),
            {1: "/early", 2: "/early"},
            [
                "error: /early commands b, c, too: this node leaves them alone",
                "warning: /early no longer commands a",
            ],
        ),
        (
            ("b",),
            {1: "/early"},
            ["error: /early commands b, too: this node leaves them alone", "warning: /early no longer commands c"],
        ),
        (("x",), {}, ["warning: /early no longer commands b"]),
    ):
        member.hear(rival("/early", member, *robots, before=True))
        assert member.changes[-1] == owners
        assert all("drives them again" in text for level, text in member.lines if level == "warning")
        assert member.texts() == lines
    assert len(member.changes) == 4 and not member.claims.conflicts


def test_a_later_node_that_goes_gives_nothing_back(world: World) -> None:
    member = begun(world)
    member.hear(rival("/late", member, before=False))
    member.texts()
    member.hear(Claim("/late", "/late", 0, frozenset({"/robot/cmd_vel"})))
    ((level, text),) = member.lines
    assert (level, text) == ("warning", "/late no longer commands robot")
    assert member.changes == [{}, {}]


def test_a_node_that_ends_its_claim_gives_its_robots_back(world: World) -> None:
    first, second = begun(world, "/first"), begun(world, "/second")
    first.spin()
    first.claims.end()
    assert first.published[-1].activated_ns == 0 and first.published[-1].topics == {"/robot/cmd_vel"}
    assert not first.claims.conflicts and not first.claims.yielded_robots
    second.spin()
    assert second.changes == [{0: "/first"}, {}]
    # It claims nothing by its heartbeat, and reports nothing.
    first.changes.clear()
    count = len(first.published)
    first.beat()
    first.hear(rival("/early", second, "other", before=True))
    assert len(first.published) == count and not first.changes and not first.claims.conflicts
    # It claims once more, as the later one.
    world.now_s += 1.0
    second.beat()
    first.begin()
    assert first.changes == [{0: "/second"}]


def test_the_end_of_a_claim_that_never_began_is_no_claim(world: World) -> None:
    member = Member(world, "/node")
    member.claims.end()
    member.beat()
    member.hear(rival("/early", member, before=True))
    assert [claim.activated_ns for claim in member.published] == [0] and not member.claims.conflicts


@pytest.mark.parametrize(("silent_s", "owners"), [(EXPIRY_S - A_MOMENT_S, {0: "/early"}), (EXPIRY_S, {})])
def test_a_claim_that_is_not_repeated_expires(world: World, silent_s: float, owners: dict[int, str]) -> None:
    member = begun(world)
    member.hear(rival("/early", member, before=True))
    world.now_s += 1.0
    member.beat()
    # Repeated once.
    member.hear(rival("/early", member, before=True))
    world.now_s += silent_s / 2
    member.beat()
    world.now_s += silent_s / 2
    member.beat()
    assert member.changes[-1] == owners
    assert bool(member.claims.conflicts) == bool(owners)


def test_claims_that_wait_for_the_executor_have_not_expired(world: World) -> None:
    member = begun(world)
    claim = rival("/early", member, before=True)
    member.hear(claim)
    # The executor was blocked, and runs the timer first.
    for _ in range(4):
        world.now_s += 1.0
        member.queue.append(claim.message())
        member.beat()
    assert member.changes == [{0: "/early"}] and not member.queue


def test_without_a_function_that_takes_messages_those_of_the_executor_count(world: World) -> None:
    first, second = begun(world, "/first"), Member(world, "/second", can_take=False)
    second.begin()
    assert not second.changes
    first.beat()
    second.spin()
    assert second.changes == [{0: "/first"}]


# Pauses of this node.


def test_a_claim_holds_until_the_others_take_it_for_expired(world: World) -> None:
    member = begun(world)
    world.now_s += 1.0
    member.beat()
    world.now_s += EXPIRY_S - A_MOMENT_S
    assert member.claims.holds
    world.now_s += A_MOMENT_S
    assert not member.claims.holds


def test_a_node_that_was_paused_is_the_latest_and_listens_first(world: World) -> None:
    member = begun(world)
    member.hear(rival("/late", member, before=False), rival("/early", member, before=True))
    member.beat()
    before_ns = member.published[-1].activated_ns
    member.texts()
    world.now_s += EXPIRY_S
    member.beat()
    assert member.published[-1].activated_ns == world.time_ns() > before_ns
    assert not member.claims.holds
    assert "did not repeat its claim of the robots for 3.0 s" in member.lines[0][1]
    # Those that it had heard before still count, as it could not hear them meanwhile; now they both come first.
    assert member.changes[-1] == {0: "/early"}
    assert member.claims.conflicts == {"robot": "/late (drives it), /early (drives it)"}
    world.now_s += LISTEN_S - A_MOMENT_S
    assert not member.claims.holds
    world.now_s += A_MOMENT_S
    assert member.claims.holds
    # They expire from then on.
    world.now_s += EXPIRY_S - LISTEN_S - A_MOMENT_S
    member.beat()
    assert member.changes[-1] == {0: "/early"}
    world.now_s += A_MOMENT_S
    member.beat()
    assert member.changes[-1] == {} and member.claims.holds


def test_a_heartbeat_that_is_a_little_late_changes_no_order(world: World) -> None:
    member = begun(world)
    member.beat()
    activated_ns = member.published[-1].activated_ns
    world.now_s += EXPIRY_S - A_MOMENT_S
    member.beat()
    assert member.published[-1].activated_ns == activated_ns and member.claims.holds and not member.lines


# Limits against many and hostile claims.


def test_only_so_many_nodes_are_kept_until_they_are_silent(world: World) -> None:
    member = begun(world)
    many = [rival(f"/hostile_{number}", member, before=False) for number in range(MOST_NODES)]
    member.hear(*many)
    assert len(member.claims.conflicts["robot"].split(", ")) == MOST_NODES
    early = rival("/early", member, before=True)
    world.now_s += 1.0
    member.beat()
    member.hear(early)
    assert "/early" not in member.claims.conflicts["robot"]
    # One that is known may change its claim, and leaves room when it claims other robots.
    member.hear(Claim("/renamed", many[0].identity, many[0].activated_ns, many[0].topics))
    assert "/renamed (yields)" in member.claims.conflicts["robot"]
    world.now_s += EXPIRY_S - 1.0 - A_MOMENT_S
    member.beat()
    member.hear(early)
    assert "/early" not in member.claims.conflicts["robot"]
    world.now_s += A_MOMENT_S
    member.hear(early)
    # The renamed one was heard last a second later than the others.
    assert member.claims.conflicts == {"robot": "/renamed (yields), /early (drives it)"}


def test_a_node_that_claims_other_robots_leaves_room(world: World) -> None:
    member = begun(world)
    member.hear(*(rival(f"/hostile_{number}", member, before=False) for number in range(MOST_NODES)))
    member.hear(rival("/hostile_0", member, "x", before=False), rival("/early", member, before=True))
    assert member.changes[-1] == {0: "/early"}


def test_a_heartbeat_handles_so_many_messages_at_most(world: World) -> None:
    member = begun(world)
    member.queue.extend(rival("/late", member, before=False).message() for _ in range(2 * MOST_NODES))
    member.beat()
    # Its own claim, which the heartbeat repeats, is the last one.
    assert len(member.queue) == MOST_NODES + 1


def test_changes_are_logged_at_most_so_often(world: World) -> None:
    member = begun(world)
    early = rival("/early", member, before=True)
    gone = Claim("/early", "/early", 0, early.topics)
    for _ in range(MOST_LINES):
        member.hear(early)
        member.hear(gone)
    assert len(member.changes) == 2 * MOST_LINES
    assert len(member.texts()) == MOST_LINES
    for _ in range(int(LINES_PERIOD_S) - 1):
        world.now_s += 1.0
        member.beat()
    world.now_s += 1.0 - A_MOMENT_S
    member.hear(early)
    assert not member.lines
    world.now_s += A_MOMENT_S
    member.hear(gone)
    member.hear(early)
    assert member.texts() == [
        "warning: /early no longer commands robot",
        "error: /early commands robot, too: this node leaves them alone",
    ]


def status(name: str = "/node", identity: str = "identity", **values: str) -> DiagnosticStatus:
    pairs = [KeyValue(key=key.rstrip("_"), value=value) for key, value in values.items()]
    return DiagnosticStatus(name=name, hardware_id=identity, values=pairs)


LONGEST = "/" + (LONGEST_NAME - 1) * "a"


@pytest.mark.parametrize(
    ("statuses", "claim"),
    [
        ([status(activated_ns="7")], Claim("/node", "identity", 7, frozenset())),
        ([status(activated_ns="7", command_topic="/a", other="/b")], Claim("/node", "identity", 7, frozenset({"/a"}))),
        ([status(activated_ns="9" * 19)], Claim("/node", "identity", int("9" * 19), frozenset())),
        ([status(LONGEST, LONGEST, activated_ns="7")], Claim(LONGEST, LONGEST, 7, frozenset())),
        ([], None),
        ([status(activated_ns="7"), status(activated_ns="7")], None),
        ([status()], None),
        ([status(activated_ns="7", activated_ns_="7")], None),
        ([status(activated_ns="9" * 20)], None),
        ([status(activated_ns="-7")], None),
        ([status(activated_ns="")], None),
        ([status(LONGEST + "a", activated_ns="7")], None),
        ([status(identity=LONGEST + "a", activated_ns="7")], None),
    ],
)
def test_only_valid_claims_are_parsed(statuses: list[DiagnosticStatus], claim: Claim | None) -> None:
    assert Claim.parse(DiagnosticArray(status=statuses)) == claim


def test_the_message_of_a_claim_says_what_it_is() -> None:
    (status,) = Claim("/node", "identity", 7, frozenset({"/b", "/a"})).message().status
    assert (status.name, status.hardware_id, status.message) == ("/node", "identity", "claim")
    assert [(pair.key, pair.value) for pair in status.values] == [
        ("activated_ns", "7"),
        ("command_topic", "/a"),
        ("command_topic", "/b"),
    ]


# Publishers that claim nothing.


def test_each_other_publisher_of_a_command_topic_is_named_once(world: World) -> None:
    member = begun(world, "/space/node", "c", "a", "b")
    claim = rival("/claimant", member, "a", before=False)
    member.hear(claim)
    member.beat()
    member.texts()
    own, claimant, teleoperation = ("/space", "node"), ("/", "claimant"), ("/", "teleoperation")
    member.publishers = {
        "/a/cmd_vel": [own, claimant],
        "/b/cmd_vel": [own, teleoperation, ("/maX", "joystick")],
        # A single one, of this node or of another, is not looked for.
        "/c/cmd_vel": [teleoperation],
    }
    for _ in range(2):
        member.look_for_others(claim)
    assert member.texts() == [
        "warning: /teleoperation publishes on /b/cmd_vel, too: b obeys both",
        "warning: /maX/joystick publishes on /b/cmd_vel, too: b obeys both",
    ]
    member.publishers["/c/cmd_vel"].append(own)
    member.look_for_others(claim)
    assert member.texts() == ["warning: /teleoperation publishes on /c/cmd_vel, too: c obeys both"]


# The topic.


def test_later_nodes_hear_the_newest_claim_of_each_in_real_time(world: World) -> None:
    member = Member(world, "/node")
    for qos, depth in ((member.publisher.qos, 1), (member.subscription.qos, MOST_NODES)):
        assert (qos.depth, qos.reliability) == (depth, ReliabilityPolicy.RELIABLE)
        assert qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert member.timer.period_s == HEARTBEAT_S
    assert member.timer.clock.clock_type == ClockType.STEADY_TIME


def test_the_topic_is_closed_when_the_others_had_time_to_hear_the_end(world: World) -> None:
    member = begun(world)
    world.waits_s.clear()
    member.claims.destroy()
    assert member.published[-1].activated_ns == 0
    assert world.waits_s == [ACKNOWLEDGE_S, SETTLE_S]
    assert member.destroyed == [member.timer, member.publisher, member.subscription]
