# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`~/preview`: what the policy sees and commands, for viewers."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from node_harness import NodeProcess, Peer, ScriptedFleet, command_values, parameters_of
from std_msgs.msg import String

from policy_node.ros import preview

ROBOTS = ("robot_0", "robot_1")


@pytest.mark.both_distributions
def test_it_shows_states_commands_and_images_of_every_robot(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    bounds = {"action.low": [-0.1], "action.high": [0.4, 1.0]}
    start_node(parameters_of(model()[0], ROBOTS, {"observations.image.encoding": "bgr8", **bounds}))
    fleet = ScriptedFleet(peer, ROBOTS)
    previews: list[dict[str, Any]] = []
    peer.node.create_subscription(
        String, "/policy_node/preview", lambda text: previews.append(json.loads(text.data)), 10
    )
    red = np.zeros((36, 36, 3), np.uint8)
    red[..., 0] = 200

    def drive(condition: Callable[[], Any], robots: tuple[str, ...]) -> None:
        while not peer.spin_for(0.05, condition):
            for robot in robots:
                fleet.publish(robot, peer.node.get_clock().now().nanoseconds, red, np.ones(8, np.float32))

    drive(lambda: {robot for shown in previews for robot in shown["images"]} == set(ROBOTS), ROBOTS)
    shown = previews[-1]
    assert shown["robots"] == list(ROBOTS) and shown["components"] == ["linear.x", "angular.z"]
    assert shown["low"] == [-0.1, -0.1] and shown["high"] == [0.4, 1.0]
    assert shown["states"] == ["READY", "READY"] and shown["reasons"] == {}
    assert all(0.0 <= age_ms < 500.0 for age_ms in shown["ages_ms"])
    sent = [command_values(command) for command in fleet.commands["robot_1"]]
    assert min(np.abs(command - shown["commands"][1]).max() for command in sent) <= 1e-4
    (image,) = next(shown["images"]["robot_1"] for shown in previews if "robot_1" in shown["images"]).items()
    assert image[0] == "image"
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(image[1]), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (36, 36, 3)
    # Blue, green and red: true colours, although the policy takes them in that order, too.
    assert np.abs(pixels.astype(int) - [0, 0, 200]).max() < 30

    drive(lambda: previews[-1]["states"] == ["READY", "STALE"], ROBOTS[:1])
    previews.clear()
    drive(lambda: len(previews) > 5, ROBOTS[:1])
    # The policy sees nothing of the second robot, which gets the safe command.
    assert all(list(shown["images"]) in ([], ["robot_0"]) for shown in previews)
    assert previews[-1]["commands"][1] == [0.0, 0.0] and " s old, " in previews[-1]["reasons"]["1"]


def test_it_looks_at_nothing_while_nobody_subscribes(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "IDLE_PERIOD_S", 0.01)
    looks: list[None] = []
    shown = preview.Preview(peer.node, lambda: looks.append(None), lambda: None)
    try:
        peer.spin_for(0.2)
        assert not looks
        subscription = peer.node.create_subscription(String, "~/preview", lambda text: None, 1)
        peer.spin_until(lambda: looks, "a look at the newest tick")
        peer.node.destroy_subscription(subscription)
        peer.spin_until(lambda: not shown._publisher.get_subscription_count(), "the end of the subscription")
        peer.spin_for(0.2)
        looks.clear()
        peer.spin_for(0.2)
        assert not looks
    finally:
        shown.end()


@pytest.mark.parametrize(
    "image, limits, expected",
    [
        (np.array([[[0.0], [4.0]]], np.float32), (0.0, 8.0), [0, 127]),
        (np.array([[[1.0], [3.0]]], np.float32), None, [0, 255]),
        (np.array([[[100], [300]]], np.uint16), (0.0, 200.0), [127, 255]),
        (np.array([[[7], [9]]], np.uint8), (0.0, 1.0), [7, 9]),
    ],
)
def test_numbers_of_any_range_become_grey(
    image: np.ndarray, limits: tuple[float, float] | None, expected: list[int]
) -> None:
    assert preview._as_uint8(image, limits).ravel().tolist() == expected
