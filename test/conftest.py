# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What must be so before any test imports rclpy, and the fixtures of the tests that run the node."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from touches_ros import touches_ros

from policy_node.ros.domain import free_domain_id

# Test robots must meet neither real ones nor those of another test run; processes started by the tests inherit this.
os.environ["ROS_DOMAIN_ID"] = str(free_domain_id())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_LOCALHOST_ONLY", None)
# What began them may have told them to ignore Ctrl-C, as shells tell what they run in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What one run measures of engines must not decide for another one.
_cache = tempfile.TemporaryDirectory(prefix="policy_node_cache_")
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))
os.environ["XDG_CACHE_HOME"] = _cache.name

# Tests with these fixtures let processes talk over DDS.
OVER_DDS = {"ros", "start_node"}
# They have to wait for other processes, and a machine that others starve of CPU can break any wait. Such a test gets a
# second try, which the summary shows with what failed at first: one that shows up there again and again is wrong.
SECOND_TRY = pytest.mark.flaky(reruns=1, only_rerun=["AssertionError", "TimeoutExpired"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that touch ROS: `pytest -m ros` runs these, `-m "not ros"` the others."""
    for item in items:
        if touches_ros(item.path):
            item.add_marker(pytest.mark.ros)
        if OVER_DDS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(SECOND_TRY)


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    """Initialise rclpy once for the whole test process."""
    import rclpy

    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def peer(ros: None) -> Iterator[Any]:
    """Return the test's own ROS node with its executor, a `node_harness.Peer`."""
    from node_harness import Peer

    peer = Peer()
    yield peer
    peer.destroy()


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a `node_harness.NodeProcess`; all of them end with the test."""
    from node_harness import NodeProcess

    processes = []

    def start(parameters: dict[str, Any], **options: Any) -> NodeProcess:
        process = NodeProcess(parameters, tmp_path / f"parameters_{len(processes)}.yaml", **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.end()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """Return a function that gives the file of a scripted robot's model and the model itself, made once per kind."""
    from node_harness import make_model

    folder = tmp_path_factory.mktemp("models")
    made: dict[tuple[Any, ...], tuple[Path, Any]] = {}

    def get(stack: int = 1, discrete: bool = False, seed: int = 1) -> tuple[Path, Any]:
        kind = (stack, discrete, seed)
        if kind not in made:
            suffix = f"_seed_{seed}" if seed != 1 else ""
            file = folder / f"stack_{stack}_{'discrete' if discrete else 'continuous'}{suffix}.zip"
            built = make_model(stack, discrete, seed)
            built.save(file)
            made[kind] = (file, built)
        return made[kind]

    return get
