# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Isolate the tests from robots, users and other test runs; mark tests; and give the fixtures that run the node."""

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from policy_node.ros.domain import free_domain_id

# Each worker of pytest-xdist imports this file and has its own ROS domain. The processes that it starts inherit it.
os.environ["ROS_DOMAIN_ID"] = str(free_domain_id())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_LOCALHOST_ONLY", None)
# Shells let what runs in the background ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# There are more workers than cores: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Measurements of engines are cached; another run or worker must not find them.
_cache = tempfile.TemporaryDirectory(prefix="policy_node_cache_")
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))
os.environ["XDG_CACHE_HOME"] = _cache.name

# How many examples a property-based test tries. A busy machine may take any time for one.
# The same examples in every run, so that a change is never refused for what another one did; "search" draws new ones.
settings.register_profile("small", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("large", max_examples=1500, deadline=None, derandomize=True)
settings.register_profile("search", max_examples=1500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "small"))

# Fixtures that start processes which talk over DDS.
OVER_DDS = {"launch", "lockstep", "start_node", "start_page", "start_sim"}
# A machine that takes the CPU from such processes can break any wait. These tests get a second try; the summary shows
# how the first one failed. A test that shows up there again and again is wrong.
SECOND_TRY = pytest.mark.flaky(reruns=1, only_rerun=["AssertionError", "TimeoutExpired"])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with which `make pages` writes doc/parity.md and doc/export.md."""
    parser.addoption("--write-pages", action="store_true", help="write the measured pages of the documentation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests over DDS a second try, put timing-sensitive tests first, and spread the files with tests over DDS.

    `--dist worksteal` of pytest-xdist gives each worker an equal part in this order, and steals from the end of a part:
    the first worker runs the timing-sensitive tests, one after the other. Tests over DDS wait for other processes while
    the others compute.
    """
    for item in items:
        if OVER_DDS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("over_dds")
        if item.get_closest_marker("over_dds"):
            item.add_marker(SECOND_TRY)
    places = _spread(items)
    items.sort(key=lambda item: (item.get_closest_marker("timing") is None, places[item.path]))


def _spread(items: list[pytest.Item]) -> dict[Path, float]:
    """Return a place from 0 to 1 for each file, so that files with tests over DDS are evenly between the others."""
    sizes = Counter(item.path for item in items)
    over_dds = {item.path for item in items if item.get_closest_marker("over_dds")}
    places = {}
    for files in ([path for path in sizes if path in over_dds], [path for path in sizes if path not in over_dds]):
        before = 0
        total = sum(sizes[path] for path in files)
        for path in files:
            places[path] = (before + sizes[path] / 2) / total
            before += sizes[path]
    return places


@pytest.hookimpl(optionalhook=True, trylast=True)
def pytest_handlecrashitem(report: pytest.TestReport) -> None:
    """Let a test fail that crashed its worker of pytest-xdist, whatever a second try gives."""
    report.outcome = "failed"


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
def echo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the policy of the rigs."""
    from loop_rig import save_echo

    return save_echo(tmp_path_factory.mktemp("policy") / "echo.pt")


@pytest.fixture
def make_rig(peer: Any, echo_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a `loop_rig.LoopRig`; all of them are destroyed after the test."""
    from loop_rig import LoopRig

    made = []

    def make(**changes: Any) -> LoopRig:
        made.append(LoopRig(peer, echo_file, monkeypatch, **changes))
        return made[-1]

    yield make
    for rig in made:
        rig.destroy()


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


@pytest.fixture
def start_page() -> Iterator[Callable[..., tuple[Any, str]]]:
    """Return a function that starts `policy_monitor --web` and returns the process and the address of the page."""
    from node_harness import end

    started = []

    def start(*options: str) -> tuple[Any, str]:
        command = [sys.executable, "-m", "policy_node.cli.monitor", "--web", "--port", "0", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().split()[-1]

    yield start
    for process in started:
        end(process)
        process.stdout.close()
