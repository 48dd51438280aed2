# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The vectorised environment: it equals single arenas, with any number of processes."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from gymnasium.error import ResetNeeded
from renderers import renderer_or_skip

from policy_node_rover.arena.conditions import ADVERSE
from policy_node_rover.mujoco import rendering
from policy_node_rover.mujoco.environment import EPISODE_STEPS, RoverArenaEnv
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.scripted_driver import scripted_command
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.mujoco.workers import WorkerProcess

FORWARD = np.array([[0.5, 0.0]], np.float32)


def test_the_vectorised_environment_resets_automatically():
    arenas = RoverArenaVecEnv(3, itertools.count(50), "raycast")
    observations = arenas.reset()
    assert observations["image"].shape == (3, 64, 64, 3)
    assert observations["touch"].shape == (3, 8)
    assert arenas.running_seeds == [50, 51, 52]
    single = RoverArenaEnv(renderer="raycast")
    expected, _ = single.reset(seed=51)
    np.testing.assert_array_equal(observations["image"][1], expected["image"])
    # The first rover drives to its beacon, the others stand still until the maximum time.
    ended = {}
    for step in range(EPISODE_STEPS):
        actions = np.zeros((3, 2), np.float32)
        if 0 not in ended:
            actions[0] = scripted_command(arenas.tasks[0].arena)
        observations, rewards, dones, infos = arenas.step(actions)
        assert (rewards.shape, dones.shape) == ((3,), (3,))
        for row in np.flatnonzero(dones):
            ended.setdefault(int(row), (step, infos[row]))
    assert set(ended) == {0, 1, 2}
    step, info = ended[0]
    assert step < EPISODE_STEPS - 1
    assert info["is_success"]
    assert not info["TimeLimit.truncated"]
    for row in (1, 2):
        step, info = ended[row]
        assert step == EPISODE_STEPS - 1
        assert info["TimeLimit.truncated"]
        assert info["episode"]["l"] == EPISODE_STEPS
        assert info["seed"] == 50 + row
    # The terminal observation is from the old episode, the returned one from the new one.
    np.testing.assert_array_equal(ended[1][1]["terminal_observation"]["image"], expected["image"])
    assert np.any(observations["image"][1] != expected["image"])
    assert sorted(arenas.running_seeds) == [53, 54, 55]
    arenas.close()


def assert_equal(one, other):
    """Check that nested values are equal, arrays bit by bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["egl", "raycast"])
def test_results_do_not_depend_on_the_number_of_processes(kind):
    renderer_or_skip(ArenaModel(), kind).close()
    one, three = (RoverArenaVecEnv(5, itertools.count(7), kind, processes, ADVERSE) for processes in (1, 3))
    assert (len(one.tasks), len(three.tasks)) == (5, 1)
    observations = one.reset()
    assert_equal(observations, three.reset())
    begun = set(one.running_seeds)
    for _ in range(140):
        commands = one.env_method("scripted_command")
        assert_equal(commands, three.env_method("scripted_command"))
        kept = observations["image"].copy()
        step = one.step(np.array(commands, np.float32))
        assert_equal(step, three.step(np.array(commands, np.float32)))
        assert_equal(one.running_seeds, three.running_seeds)
        # Earlier observations belong to the caller.
        np.testing.assert_array_equal(observations["image"], kept)
        observations = step[0]
        begun.update(one.running_seeds)
    assert len(begun) > 6, "episodes have ended, and new ones started"
    one.close()
    three.close()


def test_attributes_are_accessible_in_all_processes():
    arenas = RoverArenaVecEnv(5, itertools.count(7), "raycast", 2)
    arenas.reset()
    steps = [step for _ in range(3) for step in arenas.step(FORWARD.repeat(5, axis=0))[3]]
    assert arenas.get_attr("_steps") == [3] * 5
    arenas.set_attr("_steps", EPISODE_STEPS, [4, 0])
    assert arenas.get_attr("_steps", [4, 1, 0]) == [EPISODE_STEPS, 3, EPISODE_STEPS]
    assert arenas.get_attr("render_mode") == [None] * 5
    assert len(steps) == 15
    arenas.close()


def test_an_error_in_a_worker_is_raised_with_its_traceback():
    arenas = RoverArenaVecEnv(2, itertools.count(), "raycast", 2)
    arenas.reset()
    with pytest.raises(AttributeError, match="no attribute 'fly'") as caught:
        arenas.env_method("fly", indices=1)
    assert "in a process that simulates rovers:\nTraceback" in str(caught.value.__cause__)
    # All workers fail; the uncollected errors of the later ones are not taken for results of the next call.
    assert not arenas.has_attr("nothing")
    assert arenas.get_attr("_steps") == [0, 0]
    assert arenas.step(FORWARD.repeat(2, axis=0))[0]["image"].any()
    assert arenas.get_attr("_steps") == [1, 1]
    arenas.close()


def test_all_processes_use_the_renderer_of_the_first(monkeypatch):
    # With another platform EGL fails here, but not in the other process.
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    rendering.egl_failure.cache_clear()
    start = WorkerProcess.__init__

    def start_with_egl(process, config):
        monkeypatch.delenv("PYOPENGL_PLATFORM")
        start(process, config)

    monkeypatch.setattr(WorkerProcess, "__init__", start_with_egl)
    arenas = RoverArenaVecEnv(2, itertools.repeat(3), processes=2)
    rendering.egl_failure.cache_clear()
    one, other = arenas.reset()["image"]
    np.testing.assert_array_equal(one, other)
    arenas.close()


def test_closing_during_a_step_is_quiet(capfd):
    arenas = RoverArenaVecEnv(2, itertools.count(), "raycast", 2)
    arenas.reset()
    arenas.step_async(FORWARD.repeat(2, axis=0))
    arenas.close()
    assert capfd.readouterr().err == ""


def test_a_killed_worker_is_reported():
    arenas = RoverArenaVecEnv(2, itertools.count(), "raycast", 2)
    arenas.reset()
    (process,) = [child for child in multiprocessing.active_children() if child.name == "rovers"]
    process.kill()
    process.join()
    with pytest.raises(RuntimeError, match="simulates rovers ended with status -9"):
        arenas.step(FORWARD.repeat(2, axis=0))
    arenas.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_no_process_outlives_the_program(number):
    program = (
        "import itertools, time\n"
        "from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv\n"
        "arenas = RoverArenaVecEnv(3, itertools.count(), 'raycast', 3)\n"
        "arenas.reset()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    others = psutil.Process(running.pid).children(recursive=True)
    assert len(others) >= 2
    os.kill(running.pid, number)
    running.wait(60.0)
    running.stdout.close()
    deadline_s = time.monotonic() + 60.0
    while any(other.is_running() and other.status() != psutil.STATUS_ZOMBIE for other in others):
        assert time.monotonic() < deadline_s, "processes are left"
        time.sleep(0.05)


def test_wrong_actions_and_a_step_without_episodes_are_refused():
    arenas = RoverArenaVecEnv(2, itertools.count(), "raycast")
    with pytest.raises(ResetNeeded, match="call reset first"):
        arenas.step(np.zeros((2, 2), np.float32))
    arenas.reset()
    with pytest.raises(ValueError, match=r"actions: found \[3, 2\], but Box.* takes \[2, 2\]"):
        arenas.step(np.zeros((3, 2), np.float32))
    arenas.close()
