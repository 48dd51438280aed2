# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The node fills in its parameters from the description of the trainer."""

from collections.abc import Callable
from pathlib import Path

import onnx
from node_harness import LifecycleClient, NodeProcess, Peer
from onnx import TensorProto, helper

StartNode = Callable[..., NodeProcess]


def test_a_node_configures_from_the_description_in_its_policy_file(
    peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["robots", 2]) for name in ("obs", "actions")]
    graph = helper.make_graph([helper.make_node("Identity", ["obs"], ["actions"])], "policy", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    metadata = {"joint_names": "hip,knee", "default_joint_pos": "0.1,-1.5", "observation_names": "joint_pos"}
    helper.set_model_props(model, metadata)
    file = tmp_path / "policy.onnx"
    onnx.save(model, str(file))
    process = start_node(
        {"robots": ["dog"], "policy.path": str(file), "policy.description": "auto", "autostart": False}
    )
    operator = LifecycleClient(peer, process.full_name)
    assert not operator.change("configure")
    process.wait_for(r"action\.scale: MISSING: the factor of the action in training; .*policy\.onnx does not say it")
    assert operator.set(action__scale=[0.25], observations__obs__joint_pos__topic="encoders") == ""
    assert operator.change("configure"), process.text
    said = process.wait_for(r"policy\.description: filled in from metadata of an ONNX file, (.*?)configured in")[1]
    assert "observations.obs.joint_pos" in said and "action.offset: ASSUMED" in said
    assert "action.scale" not in said and "joint_pos.topic" not in said
    topics = {name for name, _ in peer.node.get_topic_names_and_types()}
    assert {"/dog/encoders", "/dog/joint_commands"} <= topics
