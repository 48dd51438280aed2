# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Subscriptions that are polled, also where rclpy lacks the function for it; executors and parameters of the node."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from loop_rig import save_echo
from moody import moody_parameters
from node_harness import Peer
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import Int64

from policy_node.ros import rclpy_internals
from policy_node.ros.node import PolicyNode
from policy_node.ros.parameter_services import ParameterServices
from policy_node.ros.process import destroy_last_node
from policy_node.ros.rclpy_internals import Take, direct_send, direct_take, poll_topic, spinning

pytestmark = pytest.mark.both_distributions

ROOT = Path(__file__).resolve().parents[2]
DEPTH = 3
MAY_BE_PRIVATE = re.compile(r"\bhandle\b|_state_machine|_rclpy|rclpy_|rclpy.*\bimpl\b")


class Warnings(list[str]):
    """A logger that keeps its warnings."""

    def warning(self, text: str, once: bool) -> None:
        self.append(text)


@pytest.fixture
def node(ros: None) -> Iterator[Node]:
    node = rclpy.create_node("polled")
    yield node
    node.destroy_node()


def received(peer: Peer, take: Take, raw: bool, publish: Callable[[int], None]) -> tuple[list[int], dict[str, Any]]:
    """Publish five numbers and return those that are taken until the last one, and the information about that."""
    for number in range(5):
        publish(number)
    numbers: list[int] = []
    information: dict[str, Any] = {}

    def last_is_there() -> bool:
        for message, latest in iter(take, None):
            numbers.append((deserialize_message(message, Int64) if raw else message).data)
            information.update(latest)
        return numbers[-1:] == [4]

    peer.spin_until(last_is_there, "the last number")
    return numbers, information


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("spun", [True, False])
def test_messages_are_polled_in_their_order(
    peer: Peer, node: Node, monkeypatch: pytest.MonkeyPatch, raw: bool, usable: bool, spun: bool
) -> None:
    if not usable:
        monkeypatch.setattr(rclpy_internals, "direct_take", lambda *given: None)
    subscription, take = poll_topic(node, Int64, "polled", QoSProfile(depth=DEPTH), raw=raw)
    publisher = peer.node.create_publisher(Int64, "polled", 10)

    def exchange() -> None:
        peer.spin_until(lambda: publisher.get_subscription_count() == 1, "the subscription")
        assert subscription.get_publisher_count() == 1
        numbers, information = received(peer, take, raw, lambda number: publisher.publish(Int64(data=number)))
        assert numbers == sorted(set(numbers))
        assert information["received_timestamp"] >= information["source_timestamp"] > 0
        assert take() is None

    if spun:
        with spinning(node):
            exchange()
    else:
        exchange()


@pytest.mark.parametrize(
    "take_message",
    [None, lambda: None, lambda kind, raw: (b"", SimpleNamespace()), lambda kind, raw: (b"", {"stamp": 1})],
    ids=["missing", "other arguments", "other information", "other names"],
)
def test_a_changed_rclpy_is_noticed_before_the_first_tick(take_message: Any) -> None:
    handle = SimpleNamespace(take_message=take_message) if take_message else SimpleNamespace()
    warnings = Warnings()
    assert direct_take(SimpleNamespace(handle=handle, msg_type=Int64, raw=True), warnings) is None  # type: ignore[arg-type]
    (warning,) = warnings
    assert "take_message" in warning and "CPU" in warning


def test_a_message_that_comes_before_the_first_poll_is_not_lost() -> None:
    times = {"source_timestamp": 1, "received_timestamp": 2}
    waiting = [(b"one", times), (b"two", times), None, (b"three", times)]
    handle = SimpleNamespace(take_message=lambda kind, raw: waiting.pop(0))
    take = direct_take(SimpleNamespace(handle=handle, msg_type=Int64, raw=True), Warnings())  # type: ignore[arg-type]
    assert take is not None
    assert [take(), take(), take(), take()] == [(b"one", times), (b"two", times), None, (b"three", times)]


def test_commands_are_sent_without_the_checks_of_rclpy_where_it_has_the_function() -> None:
    def publish(message: bytes) -> None:
        raise AssertionError("the slower way")

    sent: list[bytes] = []
    warnings = Warnings()
    send = direct_send(SimpleNamespace(handle=SimpleNamespace(publish_raw=sent.append)), warnings)  # type: ignore[arg-type]
    send(b"one")
    assert sent == [b"one"] and not warnings
    for publisher in (SimpleNamespace(publish=publish), SimpleNamespace(handle=SimpleNamespace(), publish=publish)):
        assert direct_send(publisher, warnings) is publish  # type: ignore[arg-type]
    assert len(warnings) == 2 and all("publish_raw" in warning for warning in warnings)


def test_only_one_module_uses_rclpy_beyond_its_public_interface() -> None:
    found = []
    for file in sorted(path for folder in ROOT.glob("policy_node*/") for path in folder.rglob("*.py")):
        text = file.read_text()
        # Parsing every file would take a second.
        for each in ast.walk(ast.parse(text)) if MAY_BE_PRIVATE.search(text) else ():
            names = [each.attr] if isinstance(each, ast.Attribute) else []
            if isinstance(each, ast.ImportFrom) and (each.module or "").startswith("rclpy"):
                names = [*(each.module or "").split("."), *(alias.name for alias in each.names)]
            if isinstance(each, ast.Import):
                names = [part for alias in each.names if "rclpy" in alias.name for part in alias.name.split(".")]
            if isinstance(each, ast.Constant) and each.value == "_state_machine":
                names = ["_state_machine"]
            private = {"_state_machine", "handle", "impl", "_rclpy", "rclpy_implementation", "_rclpy_pybind11"} & set(
                names
            )
            found += [f"{file.relative_to(ROOT)}: {name}" for name in private & set(names)]
    module = "policy_node/ros/rclpy_internals.py"
    expected = ("_state_machine", "handle", "impl", "rclpy_implementation")
    assert sorted(set(found)) == [f"{module}: {name}" for name in expected]


def test_an_events_executor_is_refused_by_name(ros: None, capfd: pytest.CaptureFixture[str]) -> None:
    node = PolicyNode()
    executor = EventsExecutor()
    try:
        executor.add_node(node)
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    finally:
        executor.remove_node(node)
        # `destroy_node` alone leaves the services of the lifecycle, which other tests would call.
        destroy_last_node(node)
    log = capfd.readouterr().err
    assert "found EventsExecutor" in log and "SingleThreadedExecutor" in log


def test_executors_wait_for_nothing_of_a_robot(peer: Peer, tmp_path: Path) -> None:
    file = save_echo(tmp_path / "policy.pt")
    waited_on = []
    for robots in (["one"], ["one", "two", "three"]):
        overrides = [Parameter(key, value=value) for key, value in moody_parameters(file, robots).items()]
        node = PolicyNode(parameter_overrides=overrides)
        try:
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert node.count_publishers("/one/cmd_vel") == node.count_subscribers("/one/touch") == 1
            waited_on.append([len(list(each)) for each in (node.subscriptions, node.waitables, node.timers)])
        finally:
            node.stop()
            destroy_last_node(node)
    assert waited_on[0] == waited_on[1]


# Requests for a parameter of each kind, for a missing one, and for none.
REQUESTS: list[tuple[Any, str, Any]] = [
    (kind, name, kind.Request(names=names))
    for kind, name in (
        (GetParameters, "get_parameters"),
        (GetParameterTypes, "get_parameter_types"),
        (DescribeParameters, "describe_parameters"),
    )
    for names in ([], ["speed", "names"], ["speed", "missing"])
]
REQUESTS += [
    (ListParameters, "list_parameters", ListParameters.Request(prefixes=prefixes, depth=depth))
    for prefixes in ([], ["group"], ["missing"])
    for depth in (0, 1, 2)
]
_CHANGES = [
    [Parameter("speed", value=2.0)],
    [Parameter("speed", value="fast")],
    [Parameter("speed", value=3.0), Parameter("names", value=["b"])],
]
REQUESTS += [
    (kind, name, kind.Request(parameters=[parameter.to_parameter_msg() for parameter in changes]))
    for kind, name in ((SetParameters, "set_parameters"), (SetParametersAtomically, "set_parameters_atomically"))
    for changes in _CHANGES
]


def test_the_parameter_services_answer_as_those_of_rclpy(peer: Peer) -> None:
    theirs, ours = rclpy.create_node("theirs"), rclpy.create_node("ours", start_parameter_services=False)

    async def set_parameters(parameters: list[Parameter]) -> SetParametersResult:
        return ours.set_parameters_atomically(parameters)

    ParameterServices(ours, set_parameters)
    for node in (theirs, ours):
        node.declare_parameter("speed", 1.0, ParameterDescriptor(description="metres per second"))
        node.declare_parameter("names", ["a"])
        node.declare_parameter("group.inner.number", 4)
    try:
        with spinning(theirs), spinning(ours):
            for kind, name, request in REQUESTS:
                answers = [str(peer.call(kind, f"/{node.get_name()}/{name}", request)) for node in (theirs, ours)]
                assert answers[0] == answers[1], f"{name}: {request}"
    finally:
        theirs.destroy_node()
        ours.destroy_node()
