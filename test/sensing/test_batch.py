# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Layouts, and the history on the device against Stable-Baselines3's own stacking, bit by bit."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from policy_node.config.schema import ConfigurationError, ObservationConfiguration
from policy_node.config.specs import ArraySpec
from policy_node.sensing.batch import ObservationBatch, ObservationLayout, observation_layout

IMAGE = "sensor_msgs/msg/Image"
VECTOR = "sensor_msgs/msg/JointState"
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]

# One frame as an environment gives it, with another size on every axis. A float image is a plain array to SB3.
FRAMES = {
    "vector": (spaces.Box(-1.0, 1.0, (5,), np.float32), VECTOR),
    "float64 vector": (spaces.Box(-1.0, 1.0, (3,), np.float64), VECTOR),
    "one number": (spaces.Box(-1.0, 1.0, (1,), np.float32), VECTOR),
    "uneven bounds": (spaces.Box(np.float32([-1, -2, 0]), np.float32([1, 2, 9]), dtype=np.float32), VECTOR),
    "HWC image": (spaces.Box(0, 255, (40, 44, 3), np.uint8), IMAGE),
    "grey HWC image": (spaces.Box(0, 255, (37, 41, 1), np.uint8), IMAGE),
    "CHW image": (spaces.Box(0, 255, (3, 40, 44), np.uint8), IMAGE),
    "grey CHW image": (spaces.Box(0, 255, (1, 37, 41), np.uint8), IMAGE),
    "float HWC image": (spaces.Box(0.0, 1.0, (40, 44, 1), np.float32), IMAGE),
    "uint16 HWC image": (spaces.Box(0, 65535, (40, 44, 1), np.uint16), IMAGE),
}


def observation_configuration(key: str, message_type: str, stack: int) -> ObservationConfiguration:
    return ObservationConfiguration(
        key=key,
        topic=key,
        type=message_type,
        field="",
        fields=(),
        joints=(),
        encoding="",
        stack=stack,
        stack_as="vecframestack",
        history=0,
        input="",
        shape=(),
        depth=0,
        reliability="reliable",
        max_age_s=0.0,
        when_silent="stale",
        terms=(),
    )


def array_spec(name: str, space: spaces.Box) -> ArraySpec:
    return ArraySpec(name, space.shape, space.dtype, space.low, space.high)


def is_channels_first(space: spaces.Box) -> bool:
    return len(space.shape) == 3 and int(np.argmin(space.shape)) == 0


def as_sensor_frame(array: np.ndarray, space: spaces.Box) -> np.ndarray:
    """Turn an environment's frames `[..., *space]` into what a sensor gives: channels last."""
    return np.moveaxis(array, -3, -1) if is_channels_first(space) else array


def draw(space: spaces.Box, robots: int, rng: np.random.Generator) -> np.ndarray:
    return array_spec("drawn", space).example(robots, rng)


def stacked_layouts(
    named: dict[str, tuple[spaces.Box, str]], stacks: dict[str, int]
) -> tuple[dict[str, ObservationLayout], dict[str, StackedObservations]]:
    """Return the layouts that fit the stacked spaces of SB3, and SB3's own stacks for 3 robots."""
    theirs = {key: StackedObservations(3, stacks[key], space) for key, (space, _) in named.items()}
    layouts = {
        key: observation_layout(
            key,
            array_spec(key, theirs[key].stacked_observation_space),
            observation_configuration(key, message_type, stacks[key]),
        )
        for key, (_, message_type) in named.items()
    }
    return layouts, theirs


def assert_equals_sb3(named: dict[str, tuple[spaces.Box, str]], stacks: dict[str, int], device: str) -> None:
    """Drive both through 12 steps in which every robot is reset at other times."""
    rng = np.random.default_rng(3)
    layouts, theirs = stacked_layouts(named, stacks)
    batch = ObservationBatch(layouts, 3, torch.device(device))
    for step in range(12):
        dones = np.array([step % 5 == 4, step in (3, 4, 9), False])
        observations = {key: draw(space, 3, rng) for key, (space, _) in named.items()}
        for key, (space, _) in named.items():
            for robot, frame in enumerate(as_sensor_frame(observations[key], space)):
                batch.row(key, robot)[...] = frame
        tensors = batch.push(dones if step else np.ones(3, bool))
        for key, observation in observations.items():
            if step == 0:
                expected = theirs[key].reset(observation)
            else:
                infos = [{"terminal_observation": row} for row in observation]
                expected, _ = theirs[key].update(observation, dones, infos)
            found = tensors[key].cpu().numpy()
            assert tensors[key].device.type == device
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stack", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", FRAMES)
def test_one_key_equals_vec_frame_stack(name, stack, device):
    assert_equals_sb3({name: FRAMES[name]}, {name: stack}, device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_dict_with_a_stack_of_its_own_per_key_equals_vec_frame_stack(device):
    stacks = {name: 1 + index % 5 for index, name in enumerate(FRAMES)}
    assert_equals_sb3(FRAMES, stacks, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stack", [1, 4])
def test_a_dead_robot_leaves_the_others_alone(stack, device):
    """Rubbish and NaN in the row of a robot that is not ready stay there, and are gone after its reset."""
    layouts, _ = stacked_layouts({"vector": FRAMES["vector"]}, {"vector": stack})
    batch = ObservationBatch(layouts, 2, torch.device(device))
    for step in range(3):
        batch.row("vector", 0)[...] = step + 1
        batch.row("vector", 1)[...] = np.nan
        tensor = batch.push(np.array([step == 0, False]))["vector"]
        assert np.isfinite(tensor[0].cpu().numpy()).all()
    batch.row("vector", 1)[...] = 7
    tensor = batch.push(np.array([False, True]))["vector"]
    assert tensor[1].cpu().tolist() == [0.0] * 5 * (stack - 1) + [7.0] * 5


@pytest.mark.parametrize("stack", [1, 2, 5])
@pytest.mark.parametrize("name", FRAMES)
def test_the_frame_is_the_environments_frame(name, stack):
    """Shape, dtype and the bounds of every component, whatever SB3 made of them by stacking."""
    space, message_type = FRAMES[name]
    layouts, _ = stacked_layouts({name: (space, message_type)}, {name: stack})
    frame = layouts[name].frame
    expected = as_sensor_frame(space.low, space)
    assert (frame.name, frame.shape, frame.dtype) == (name, expected.shape, space.dtype)
    np.testing.assert_array_equal(frame.low, expected)
    np.testing.assert_array_equal(frame.high, as_sensor_frame(space.high, space))


def test_bounds_that_were_stacked_frame_by_frame_are_cut_rightly():
    spec = ArraySpec("vector", (6,), np.float32, [-1, -2, -3] * 2, [1, 2, 3] * 2)
    frame = observation_layout("vector", spec, observation_configuration("vector", VECTOR, 2)).frame
    assert (frame.low.tolist(), frame.high.tolist()) == ([-1, -2, -3], [1, 2, 3])


@pytest.mark.parametrize(
    ("shape", "message_type", "stack", "problem"),
    [
        ((5,), VECTOR, 2, "observations.camera.stack: found 2, but the policy wants camera: float32 [5]"),
        ((64, 64, 3), IMAGE, 2, "observations.camera.stack: found 2"),
        ((3, 64, 64), IMAGE, 2, "observations.camera.stack: found 2"),
        ((8,), IMAGE, 1, "observations.camera.type: a sensor_msgs/msg/Image gives [height, width, channels]"),
        ((64, 64), IMAGE, 1, "observations.camera.type"),
        ((), VECTOR, 2, "observations.camera.stack: found 2"),
    ],
)
def test_what_does_not_fit_is_named(shape, message_type, stack, problem):
    spec = ArraySpec("camera", shape, np.float32, 0.0, 1.0)
    with pytest.raises(ConfigurationError) as error:
        observation_layout("camera", spec, observation_configuration("camera", message_type, stack))
    assert problem in str(error.value)
    assert str(spec) in str(error.value)


def test_a_single_number_has_a_row_that_can_be_written():
    spec = ArraySpec("gear", (), np.int64, 0, 4)
    batch = ObservationBatch({"gear": ObservationLayout("gear", spec, 1, False)}, 2, torch.device("cpu"))
    batch.row("gear", 1)[...] = 3
    assert batch.push(np.ones(2, bool))["gear"].tolist() == [0, 3]


def test_an_image_goes_up_with_the_strides_that_predict_gives_it():
    """SB3 transposes without a copy, and convolutions round by strides."""
    layouts, _ = stacked_layouts({"image": FRAMES["CHW image"]}, {"image": 2})
    tensor = ObservationBatch(layouts, 2, torch.device("cpu")).push(np.ones(2, bool))["image"]
    assert tensor.shape == (2, 6, 40, 44)
    assert tensor.permute(0, 2, 3, 1).is_contiguous()


def test_a_category_is_one_number_read_as_a_vector():
    """Of a Discrete space, whose observations have no axis of their own."""
    spec = ArraySpec("gear", (), np.int64, 0, 3)
    layout = observation_layout("observation", spec, observation_configuration("gear", "std_msgs/msg/Int32", 1))
    assert [(name, reading.shape) for name, reading in layout.readings.items()] == [("gear", (1,))]
    batch = ObservationBatch({"observation": layout}, 3, torch.device("cpu"))
    for robot, gear in enumerate((2, 0, 3)):
        batch.readings(robot)["gear"][...] = [gear]
    assert batch.push(np.ones(3, bool))["observation"].tolist() == [2, 0, 3]
    with pytest.raises(ConfigurationError, match=r"observations.gear.stack: found 2"):
        observation_layout("observation", spec, observation_configuration("gear", "std_msgs/msg/Int32", 2))
