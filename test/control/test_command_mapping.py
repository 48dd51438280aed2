# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Map final actions to commands, and find the safe command."""

from typing import Any

import numpy as np
import pytest
import torch

from policy_node.config.schema import ActionConfiguration, ConfigurationError
from policy_node.config.specs import ArraySpec, DiscreteSpec, MultiDiscreteSpec
from policy_node.control.command_mapping import CommandLimiter, CommandMapper

CPU = torch.device("cpu")
TWIST = "geometry_msgs/msg/Twist"
ARRAY = "std_msgs/msg/Float64MultiArray"
JOINTS = "sensor_msgs/msg/JointState"
DRIVE = ("linear.x", "angular.z")


def action_configuration(message_type: str = TWIST, **changes: Any) -> ActionConfiguration:
    values: dict[str, Any] = {
        "topic": "command",
        "type": message_type,
        "fields": DRIVE if message_type == TWIST else (),
        "joints": ("left", "right") if message_type == JOINTS else (),
        "field": "position",
        "frame_id": "",
        "time_from_start_s": 0.0,
        "scale": (),
        "offset": (),
        "low": (),
        "high": (),
        "table": (),
        "when_stale": "stop",
        "hold_s": 0.5,
        "safe_command": (),
        "safe_position_topic": "",
        "safe_position_joints": (),
        "max_rate": (),
        "ramp_s": 0.0,
        "deadline_s": 0.15,
    }
    return ActionConfiguration(**{**values, **changes})


def box(*shape: int, dtype: type = np.float32) -> ArraySpec:
    return ArraySpec("action", shape, dtype, -1.0, 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (1, 2, 3)])
def test_continuous_actions_keep_the_order_of_their_components(shape, dtype):
    mapper = CommandMapper(box(*shape, dtype=dtype), action_configuration(ARRAY), CPU)
    actions = np.random.default_rng(0).random((3, *shape)).astype(dtype)
    commands = mapper(torch.from_numpy(actions)).numpy()
    assert commands.shape == (3, mapper.components)
    assert commands.dtype == dtype
    np.testing.assert_array_equal(commands, [row.ravel() for row in actions])


def test_a_row_that_is_not_finite_stays_not_finite():
    mapper = CommandMapper(box(2), action_configuration(), CPU)
    commands = mapper(torch.tensor([[0.5, 0.25], [torch.nan, 0.0], [torch.inf, 0.0]]))
    assert torch.isfinite(commands).all(dim=1).tolist() == [True, False, False]


def test_a_discrete_action_selects_its_row_and_a_negative_one_gives_nan():
    table = (0.1, -0.2, 0.3, -0.4, 0.5, -0.6)
    mapper = CommandMapper(DiscreteSpec("action", 3), action_configuration(table=table), CPU)
    commands = mapper(torch.tensor([2, -1, 0, 1])).numpy()
    assert commands.dtype == np.float64
    np.testing.assert_array_equal(commands, [[0.5, -0.6], [np.nan, np.nan], [0.1, -0.2], [0.3, -0.4]])


@pytest.mark.parametrize(
    ("message_type", "changes", "components"),
    [
        (TWIST, {"table": (0.0,) * 6}, 2),
        (ARRAY, {"table": (0.0,) * 12}, 4),
        (ARRAY, {"table": (0.0,) * 6, "safe_command": (1.0, 2.0)}, 2),
        (JOINTS, {"table": (0.0,) * 6, "safe_command": (1.0, 2.0)}, 2),
    ],
)
def test_a_table_has_a_row_per_choice(message_type, changes, components):
    configuration = action_configuration(message_type, **changes)
    assert CommandMapper(DiscreteSpec("action", 3), configuration, CPU).components == components


@pytest.mark.parametrize(
    ("message_type", "given", "expected"),
    [
        (TWIST, (), [0.0, 0.0]),
        (TWIST, (0.5, 0.0), [0.5, 0.0]),
        (ARRAY, (), None),
        (ARRAY, (1.0, 2.0), [1.0, 2.0]),
        (JOINTS, (), None),
        (JOINTS, (1.0, 2.0), [1.0, 2.0]),
    ],
)
def test_only_a_velocity_has_zeros_as_its_safe_command(message_type, given, expected):
    safe = CommandMapper(box(2), action_configuration(message_type, safe_command=given), CPU).safe_command
    assert (None if safe is None else safe.tolist()) == expected


def limited(mapper: CommandMapper, configuration: ActionConfiguration, actions: torch.Tensor) -> np.ndarray:
    """Return the commands of actions after the limits, with nothing sent before."""
    commands = mapper(actions)
    nothing = torch.full(commands.shape, torch.nan, dtype=torch.float64)
    limiter = CommandLimiter(configuration, mapper.components, 0.05, CPU)
    return limiter(commands, nothing, nothing, torch.ones(len(actions), dtype=torch.float64))[:, :-2].numpy()


def test_an_action_is_scaled_then_offset_then_bounded():
    changes = {"scale": (0.25,), "offset": (0.1, -1.5, 0.8), "low": (-2.0,), "high": (0.5, -1.0, 2.0)}
    configuration = action_configuration(ARRAY, **changes)
    mapper = CommandMapper(box(3), configuration, CPU)
    commands = limited(mapper, configuration, torch.tensor([[1.0, 1.0, 1.0], [4.0, -8.0, -9.0]]))
    np.testing.assert_allclose(commands, [[0.35, -1.25, 1.05], [0.5, -2.0, -1.45]], atol=1e-12)


def test_components_are_picked_in_their_order_before_they_are_scaled():
    mapper = CommandMapper(box(3), action_configuration(ARRAY, components=(2, 0), scale=(1.0, 10.0)), CPU)
    assert mapper.components == 2
    assert mapper(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).tolist() == [[3.0, 10.0], [6.0, 40.0]]


def test_multi_discrete_actions_can_be_scaled():
    changes = {"scale": (0.5, 1.0), "offset": (-0.5, 0.0), "high": (0.25, 2.0)}
    configuration = action_configuration(**changes)
    mapper = CommandMapper(MultiDiscreteSpec("action", (3, 4)), configuration, CPU)
    commands = limited(mapper, configuration, torch.tensor([[0, 3], [1, 1], [2, 0], [-1, 2]]))
    np.testing.assert_array_equal(commands, [[-0.5, 2.0], [0.0, 1.0], [0.25, 0.0], [np.nan, 2.0]])


def test_a_bound_does_not_make_a_nan_action_usable():
    configuration = action_configuration(ARRAY, low=(-1.0,), high=(0.1,))
    mapper = CommandMapper(box(2), configuration, CPU)
    commands = limited(mapper, configuration, torch.tensor([[torch.inf, 0.0], [torch.nan, 0.0], [5.0, -5.0]]))
    assert np.isfinite(commands).all(axis=1).tolist() == [False, False, True]
    # A command never lies beyond a bound, not even by a rounding to float32.
    assert commands[2].tolist() == [0.1, -1.0]


@pytest.mark.parametrize(
    ("action", "configuration", "problem"),
    [
        (box(3), action_configuration(ARRAY, scale=(1.0, 2.0)), "action.scale: found 2 numbers, but a command has 3"),
        (box(3), action_configuration(ARRAY, high=(1.0,) * 4), "action.high: found 4 numbers, but a command has 3"),
        (
            DiscreteSpec("action", 3),
            action_configuration(table=(0.0,) * 6, offset=(1.0,)),
            "action.offset: given, but the policy's action is action: one of 3 choices",
        ),
        (
            DiscreteSpec("action", 3),
            action_configuration(table=(0.0,) * 6, components=(0, 1)),
            "action.components: given, but the policy's action is action: one of 3 choices",
        ),
        (
            box(2),
            action_configuration(ARRAY, components=(1, 2)),
            "components of the command: found 2, but the policy's action has 2 components",
        ),
        (box(3), action_configuration(), "action.fields: found 2 (linear.x, angular.z), but the policy's action has 3"),
        (box(1, 3), action_configuration(JOINTS), "action.joints: found 2 (left, right), but"),
        (box(2), action_configuration(table=(0.0, 1.0)), "action.table: given, but the policy's action is continuous"),
        (box(3), action_configuration(ARRAY, safe_command=(0.0,)), "action.safe_command: found 1 numbers"),
        (DiscreteSpec("action", 3), action_configuration(), "action.table: found 0 numbers"),
        (DiscreteSpec("action", 3), action_configuration(table=(0.0,) * 4), "give 3 rows of 2 numbers"),
        (DiscreteSpec("action", 3), action_configuration(table=(0.0,) * 9), "give 3 rows of 2 numbers"),
        (DiscreteSpec("action", 3), action_configuration(ARRAY, table=(0.0,) * 4), "found 4 numbers"),
        (DiscreteSpec("action", 3), action_configuration(ARRAY, table=(0.0,) * 2), "found 2 numbers"),
        (
            MultiDiscreteSpec("action", (2, 3)),
            action_configuration(ARRAY, table=(0.0, 1.0)),
            "action.table: given, but the policy's action is several choices, action: 2 at once",
        ),
        (
            MultiDiscreteSpec("action", (2, 3, 2)),
            action_configuration(),
            "action.fields: found 2 (linear.x, angular.z), but the policy's action has 3 components",
        ),
        (
            DiscreteSpec("action", 3),
            action_configuration(ARRAY, table=(0.0,) * 6, safe_command=(0.0,)),
            "found 6 numbers",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_the_policy_is_reported(action, configuration, problem):
    with pytest.raises(ConfigurationError) as error:
        CommandMapper(action, configuration, CPU)
    assert problem in str(error.value)
