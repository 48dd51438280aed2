# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Stacks of any order, grouping and length against an account in plain Python, a list of steps per robot."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_node.config.schema import ConfigurationError, ObservationConfiguration, parse_configuration
from policy_node.config.specs import ArraySpec
from policy_node.sensing.batch import ObservationBatch, observation_layout
from policy_node.sensing.terms import TermInputs

ROBOTS = 3
ACTION = 2
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def observation_of(entry: dict[str, Any]) -> ObservationConfiguration:
    """Return the configuration of one observation, beside another one whose topic is synchronised."""
    topic = {"topic": "joints", "type": "std_msgs/msg/Float64MultiArray"}
    configuration = parse_configuration(
        {
            "control_rate_hz": 50.0,
            "robots": ["robot"],
            "policy": {"path": "unused"},
            "observations": {"keys": ["policy", "other"], "policy": entry, "other": topic},
            "action": {**topic, "topic": "command", "safe_command": [0.0] * ACTION},
        }
    )
    return configuration.observations[0]


def numbers(*shape: int, dtype: type = np.float32) -> ArraySpec:
    return ArraySpec("policy", shape, dtype, -np.inf, np.inf)


@st.composite
def stacks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw an observation of terms that are stacked."""
    order = draw(st.sampled_from(["oldest_first", "newest_first"]))
    grouping = draw(st.sampled_from(["", "by_time", "by_term"]))
    terms: dict[str, Any] = {}
    for index in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["sensor", "sensor", "previous_action", "step"]))
        term: dict[str, Any] = {"kind": kind, "stack": draw(st.integers(0, 4))}
        if kind == "sensor":
            size = draw(st.integers(1, 3))
            term |= {"topic": f"t{index}", "type": "std_msgs/msg/Float64MultiArray", "scale": [1.0] * size}
        terms[f"term{index}"] = term
    stack_as = draw(st.sampled_from(["vecframestack", "isaac_lab"]))
    own = {"stack": draw(st.integers(1, 4)), "stack_as": stack_as, "stack_order": order, "stack_grouping": grouping}
    return {**own, "terms": list(terms), **terms}


def size_of(term: dict[str, Any]) -> int:
    return {"previous_action": ACTION, "step": 1}.get(term["kind"]) or len(term["scale"])


def account(entry: dict[str, Any], steps: list[list[list[float]]]) -> list[float]:
    """Return the observation after the steps of an episode, each a list of numbers per term, oldest first."""
    terms = [entry[name] for name in entry["terms"]]
    lengths = [term["stack"] or entry["stack"] for term in terms]
    isaac_lab = entry["stack_as"] == "isaac_lab"

    def at(term: int, age: int) -> list[float]:
        if age < len(steps):
            return steps[-1 - age][term]
        return steps[0][term] if isaac_lab else [0.0] * len(steps[0][term])

    ages = list(range(max(lengths)))
    if entry["stack_order"] == "oldest_first":
        ages.reverse()
    if entry["stack_grouping"] == "by_term" or (not entry["stack_grouping"] and isaac_lab):
        parts = [at(term, age) for term, length in enumerate(lengths) for age in ages if age < length]
    else:
        parts = [at(term, age) for age in ages for term, length in enumerate(lengths) if age < length]
    return [number for part in parts for number in part]


@pytest.mark.parametrize("device", DEVICES)
@given(entry=stacks(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_stacks_of_terms_are_those_of_a_plain_account(device: str, entry: dict[str, Any], seed: int) -> None:
    observation = observation_of(entry)
    terms = [entry[name] for name in entry["terms"]]
    size = sum(size_of(term) * (term["stack"] or entry["stack"]) for term in terms)
    sizes: dict[str, int | None] = {f"policy.{name}": size_of(entry[name]) for name in entry["terms"]}
    layout = observation_layout("policy", numbers(size), observation, TermInputs(sizes, ACTION))
    batch = ObservationBatch({"policy": layout}, ROBOTS, torch.device(device))
    rng = np.random.default_rng(seed)
    episodes: list[list[list[list[float]]]] = [[] for _ in range(ROBOTS)]
    previous = np.zeros((ROBOTS, ACTION), np.float32)
    for tick in range(8):
        reset = rng.random(ROBOTS) < (1.0 if tick == 0 else 0.2)
        for robot in range(ROBOTS):
            if reset[robot]:
                episodes[robot], previous[robot] = [], 0.0
            rows = batch.readings(robot)
            step = []
            for name, term in zip(entry["terms"], terms, strict=True):
                if term["kind"] == "sensor":
                    rows[f"policy.{name}"][...] = rng.normal(size=size_of(term))
                    step.append(rows[f"policy.{name}"].tolist())
                else:
                    of_episode = previous[robot].tolist() if term["kind"] == "previous_action" else None
                    step.append(of_episode or [float(len(episodes[robot]))])
            episodes[robot].append(step)
        found = batch.push(reset)["policy"].cpu().numpy()
        np.testing.assert_array_equal(found, [account(entry, steps) for steps in episodes])
        previous = rng.normal(size=(ROBOTS, ACTION)).astype(np.float32)
        batch.remember(torch.from_numpy(previous), {})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
def test_images_are_stacked_in_both_orders(device: str, channels_first: bool, order: str) -> None:
    steps = 3
    image = {"topic": "camera", "type": "sensor_msgs/msg/Image", "stack": steps, "stack_order": order}
    shape = (2 * steps, 36, 37) if channels_first else (36, 37, 2 * steps)
    frame = (36, 37, 2)
    layout = observation_layout("policy", ArraySpec("policy", shape, np.uint8, 0, 255), observation_of(image))
    batch = ObservationBatch({"policy": layout}, ROBOTS, torch.device(device))
    rng = np.random.default_rng(0)
    seen = [[np.zeros(frame, np.uint8)] * steps for _ in range(ROBOTS)]
    for tick in range(6):
        reset = np.array([tick == 0, tick in (0, 4), tick == 0])
        for robot in range(ROBOTS):
            pixels = rng.integers(0, 256, frame, np.uint8)
            batch.row("policy", robot)[...] = pixels
            past = [np.zeros(frame, np.uint8)] * (steps - 1) if reset[robot] else seen[robot][1:]
            seen[robot] = [*past, pixels]
        found = batch.push(reset)["policy"].cpu().numpy()
        ordered = [steps if order == "oldest_first" else steps[::-1] for steps in seen]
        expected = np.stack([np.concatenate(frames, axis=2) for frames in ordered])
        np.testing.assert_array_equal(found, np.moveaxis(expected, 3, 1) if channels_first else expected)


@pytest.mark.parametrize("own", [{}, {"stack_as": "isaac_lab"}, {"stack_order": "newest_first"}])
def test_an_episode_that_begins_again_has_its_first_step_only(own: dict[str, Any]) -> None:
    """`begin_again` gives a robot what a reset gives, and leaves the others."""
    terms = {
        "a": {"topic": "a", "type": "std_msgs/msg/Float64MultiArray", "scale": [1.0, 1.0], "stack": 3},
        "count": {"kind": "step"},
    }
    entry = {"stack": 2, **own, "terms": list(terms), **terms}
    layout = observation_layout("policy", numbers(8), observation_of(entry), TermInputs())
    batch, fresh = (ObservationBatch({"policy": layout}, 2, torch.device("cpu")) for _ in range(2))
    rng = np.random.default_rng(0)
    for tick in range(4):
        for robot in range(2):
            row = rng.normal(size=2)
            for each in (batch, fresh):
                each.readings(robot)["policy.a"][...] = row
        shown = batch.push(np.array([tick == 0] * 2))["policy"].clone()
    again = batch.begin_again(np.array([True, False]))["policy"]
    assert torch.equal(again[0], fresh.push(np.array([True, True]))["policy"][0])
    assert torch.equal(again[1], shown[1])


def test_a_term_of_unknown_size_gets_what_its_own_stack_leaves() -> None:
    source = {"topic": "a", "type": "std_msgs/msg/Float64MultiArray"}
    entry = {"stack": 2, "terms": ["a", "b"], "a": {**source, "stack": 3}, "b": {**source, "scale": [1.0, 1.0]}}
    layout = observation_layout("policy", numbers(3 * 4 + 2 * 2), observation_of(entry), TermInputs())
    assert [(term.size, term.steps) for term in layout.terms] == [(4, 3), (2, 2)]
    with pytest.raises(ConfigurationError, match=r"observations.policy.terms: .* found are a \? × 3, b 2 × 2; say how"):
        observation_layout("policy", numbers(17), observation_of(entry), TermInputs())
