# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters that are set while the node is configured, in one process; simulated time stands still: no tick runs."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from loop_rig import save_echo
from moody import moody_parameters
from node_harness import CELLS, LifecycleClient, Peer
from onnx import TensorProto, helper
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from policy_node.ros import loading, ownership
from policy_node.ros.node import PolicyNode
from policy_node.ros.process import destroy_last_node

NOW_NS = 10**12

StartNode = Callable[..., PolicyNode]


@pytest.fixture
def make_node(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartNode]:
    """Return a function that makes a node with parameters by dotted name, spun by the peer; all end with the test."""
    monkeypatch.setattr(ownership, "DISCOVERY_S", 0.0)
    nodes = []

    def make(parameters: dict[str, Any], stopping: threading.Event | None = None) -> PolicyNode:
        overrides = [Parameter(name, value=value) for name, value in {"use_sim_time": True, **parameters}.items()]
        node = PolicyNode(stopping, parameter_overrides=overrides)
        nodes.append(node)
        peer._executor.add_node(node)
        return node

    yield make
    for node in nodes:
        node.stop()
        peer._executor.remove_node(node)
        destroy_last_node(node)


@pytest.fixture
def node(make_node: StartNode, tmp_path: Path) -> PolicyNode:
    """Return a configured node whose policy commands what the reading says."""
    made = make_node(moody_parameters(save_echo(tmp_path / "policy.pt"), ["robot"], synchronisation__max_age_s=5.0))
    assert made.trigger_configure() == TransitionCallbackReturn.SUCCESS
    return made


def save_described(file: Path, observation: str, joints: str = "hip,knee") -> Path:
    """Save a policy for two joints with the description of its trainer."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["robots", 2]) for name in ("obs", "actions")]
    graph = helper.make_graph([helper.make_node("Identity", ["obs"], ["actions"])], "policy", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    metadata = {"joint_names": joints, "default_joint_pos": "0.1,-1.5", "observation_names": observation}
    helper.set_model_props(model, metadata)
    onnx.save(model, str(file))
    return file


@pytest.fixture
def described(make_node: StartNode, tmp_path: Path) -> PolicyNode:
    """Return a node that was configured from the description in its policy file."""
    node = make_node(
        {
            "robots": ["dog"],
            "policy.path": str(save_described(tmp_path / "policy.onnx", "joint_pos")),
            "policy.description": "auto",
            "policy.engine": "onnxruntime",
            "action.scale": [0.25],
        }
    )
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    return node


def set_parameters(node: PolicyNode, **values: Any) -> str:
    """Set parameters, `__` standing for a dot in their names; return why they were refused."""
    parameters = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
    return str(node.set_parameters_atomically(parameters).reason)


def command(node: PolicyNode) -> list[float]:
    """Return the command of an inactive node to a reading that asks for 1.0 twice."""
    assert node.deployment is not None
    pipeline = node.deployment.pipeline
    touch = JointState(name=[str(cell) for cell in range(CELLS)], effort=[*[0.0] * (CELLS - 2), 1.0, 1.0])
    pipeline.add(0, 0, NOW_NS, serialize_message(touch))
    found: list[float] = pipeline.step(NOW_NS).sent[0].tolist()
    return found


def test_a_limit_holds_that_no_tick_has_used_before_the_node_was_deactivated(node: PolicyNode) -> None:
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert set_parameters(node, action__high=[0.5]) == ""
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert command(node) == [0.5, 0.5]


def test_a_limit_is_changed_without_reading_files_again(
    described: PolicyNode, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.onnx").unlink()
    capfd.readouterr()
    assert set_parameters(described, action__high=[0.5]) == ""
    assert "filled in from" not in capfd.readouterr().err
    # Limits set one after the other are checked together.
    assert "action.low: found [1.0], but the upper bounds are [0.5]" in set_parameters(described, action__low=[1.0])
    assert set_parameters(described, action__high=[2.0]) == "" == set_parameters(described, action__low=[1.0])


@pytest.mark.parametrize(
    ("observation", "joints", "reason"),
    [("joint_vel", "hip,knee", "observations"), ("joint_pos", "knee,hip", "action.joints: the new policy needs")],
)
def test_a_policy_whose_description_asks_for_other_sensors_or_joints_replaces_nothing(
    described: PolicyNode, peer: Peer, tmp_path: Path, observation: str, joints: str, reason: str
) -> None:
    before = described.deployment
    assert before is not None
    policy = before.pipeline.policy
    operator = LifecycleClient(peer, described.get_fully_qualified_name())
    refused = operator.set(policy__path=str(save_described(tmp_path / "other.onnx", observation, joints)))
    assert reason in refused and "The present policy goes on." in refused
    assert described.deployment is before and before.pipeline.policy is policy
    assert operator.get("policy.path") == [str(tmp_path / "policy.onnx")]
    assert set_parameters(described, action__high=[0.5]) == ""


def test_limits_are_lowered_while_a_policy_loads(
    node: PolicyNode, peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, go_on, deploy = threading.Event(), threading.Event(), loading.deploy

    def slow_deploy(*arguments: Any) -> Any:
        loads.set()
        assert go_on.wait(60.0)
        return deploy(*arguments)

    monkeypatch.setattr(loading, "deploy", slow_deploy)
    operator = LifecycleClient(peer, node.get_fully_qualified_name())
    another = str(save_echo(tmp_path / "another.pt"))
    answer = operator.begin_to_set(policy__path=another)
    peer.spin_until(loads.is_set, "the loading thread")
    assert operator.set(action__high=[0.5]) == ""
    assert command(node) == [0.5, 0.5]
    assert "policy.path: another policy is being loaded" in operator.set(policy__path=str(tmp_path / "policy.pt"))
    assert operator.set_atomically(action__high=[0.25], synchronisation__max_age_s=2.0) == ""
    go_on.set()
    assert answer() == ""
    assert operator.get("policy.path", "action.high") == [another, [0.25]]
    assert command(node) == [0.25, 0.25]


def test_the_log_level_is_set_together_with_other_parameters(node: PolicyNode, peer: Peer, tmp_path: Path) -> None:
    def level() -> LoggingSeverity:
        return LoggingSeverity(node.get_logger().get_effective_level())

    assert set_parameters(node, action__high=[0.5], log_level="warn") == ""
    assert command(node) == [0.5, 0.5] and level() == LoggingSeverity.WARN
    # A refused request changes nothing, and names what cannot be set.
    refused = set_parameters(node, log_level="error", action__high=[0.25], control_rate_hz=10.0)
    assert refused.startswith("control_rate_hz: parameters are read at configure")
    assert "log_level: found 'loud'" in set_parameters(node, action__high=[0.25], log_level="loud")
    assert command(node) == [0.5, 0.5] and level() == LoggingSeverity.WARN
    operator = LifecycleClient(peer, node.get_fully_qualified_name())
    another = str(save_echo(tmp_path / "another.pt"))
    assert operator.set_atomically(policy__path=another, log_level="info") == ""
    assert level() == LoggingSeverity.INFO and operator.get("policy.path") == [another]

    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert set_parameters(node, control_rate_hz=10.0, log_level="error") == ""
    assert level() == LoggingSeverity.ERROR
    node.get_logger().set_level(LoggingSeverity.INFO)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert level() == LoggingSeverity.ERROR
    # The loggers of one name share their level.
    assert set_parameters(node, log_level=None) == "" and level() == LoggingSeverity.INFO


def test_a_replaced_policy_and_an_ended_loop_are_freed(node: PolicyNode, peer: Peer, tmp_path: Path) -> None:
    assert node.deployment is not None
    replaced = weakref.ref(node.deployment.policy)
    gc.collect()
    # Nothing but the node itself may free them: it freezes what exists when it is activated.
    gc.disable()
    try:
        operator = LifecycleClient(peer, node.get_fully_qualified_name())
        assert operator.set(policy__path=str(save_echo(tmp_path / "another.pt"))) == ""
        # The thread that has loaded the new one may still end.
        peer.spin_until(lambda: replaced() is None, "the end of the replaced policy")
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        ended = weakref.ref(node.loop)
        assert operator.change("deactivate") and operator.change("activate")
        assert ended() is None
        assert operator.change("deactivate")
    finally:
        gc.enable()
