# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The executables of the example robot."""

from __future__ import annotations

from functools import partial

from policy_node.cli.executables import run

rover_sim = partial(run, "rover_sim", "policy_node_rover.mujoco.rover_sim")
gazebo_watch = partial(run, "gazebo_watch", "policy_node_rover.gazebo.watch")
policy_train = partial(run, "policy_train", "policy_node_rover.training.cli")
policy_demo = partial(run, "policy_demo", "policy_node_rover.demo.cli")
