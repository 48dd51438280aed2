# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Processes and parameters of the launch files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from policy_node.cli.launching import (
    FLEET_ARGUMENTS,
    ONBOARD_ARGUMENTS,
    POLICY_ARGUMENTS,
    Argument,
    NodeProcess,
    check_known,
    fleet,
    onboard,
    policy,
)
from policy_node.cli.process_environment import FASTDDS_VARIABLE, FASTRTPS_VARIABLE, MALLOC_VARIABLES, profile_variable
from policy_node.config.package_files import share_path
from policy_node_rover.launch import (
    DEMO_ARGUMENTS,
    GAZEBO_ARGUMENTS,
    ROVER_SIM_ARGUMENTS,
    demo,
    rover_sim,
)

ROVERS = str(share_path("config", "rover.yaml"))
ALL_ARGUMENTS = {
    "policy": POLICY_ARGUMENTS,
    "onboard": ONBOARD_ARGUMENTS,
    "fleet": FLEET_ARGUMENTS,
    "rover_sim": ROVER_SIM_ARGUMENTS,
    "demo": DEMO_ARGUMENTS,
    "gazebo": GAZEBO_ARGUMENTS,
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (FASTDDS_VARIABLE, FASTRTPS_VARIABLE, *MALLOC_VARIABLES):
        monkeypatch.delenv(variable, raising=False)


def given(arguments: Sequence[Argument], **values: str) -> dict[str, str]:
    """Return the values of all arguments, the parameter file of the rovers where none is given."""
    defaults = {argument.name: argument.default or "" for argument in arguments}
    assert values.keys() <= defaults.keys()
    if "params_file" in defaults:
        values = {"params_file": ROVERS, **values}
    return {**defaults, **values}


def overrides(process: NodeProcess) -> dict[str, Any]:
    """Return the parameters that override the parameter file."""
    file, *rest = process.parameters
    assert isinstance(file, str)
    return {name: value for values in rest if isinstance(values, dict) for name, value in values.items()}


def parameter_file(folder: Path, **changes: Any) -> str:
    """Write a parameter file of the rovers with other lines for some parameters."""
    text = Path(ROVERS).read_text()
    for name, value in changes.items():
        text = re.sub(rf"^    {name}:.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("  ros__parameters:\n", f"  ros__parameters:\n    {name}: {value}\n")
    file = folder / "parameters.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("arguments", ALL_ARGUMENTS.values(), ids=ALL_ARGUMENTS.keys())
def test_every_argument_is_declared_once_and_described(arguments: Sequence[Argument]) -> None:
    names = [argument.name for argument in arguments]
    assert len(names) == len(set(names))
    assert all(argument.description for argument in arguments)


@pytest.mark.parametrize("arguments", ALL_ARGUMENTS.values(), ids=ALL_ARGUMENTS.keys())
def test_an_argument_that_a_launch_file_does_not_have_is_refused(arguments: Sequence[Argument]) -> None:
    known = [argument.name for argument in arguments]
    check_known([*(f"{name}:=value" for name in known), "sigterm_timeout:=9"], arguments)
    other = "robots" if "robot_count" in known else "robot_count"
    with pytest.raises(ValueError, match=f"^{other}:=4: there is no such argument; allowed are .*{known[-1]}$"):
        check_known([f"{known[0]}:=value", f"{other}:=4"], arguments)


def test_arguments_that_set_parameters_are_empty_by_default() -> None:
    for arguments in ALL_ARGUMENTS.values():
        for argument in arguments:
            if argument.name in ("autostart", "use_sim_time", "device", "priority", "cpus", "record", "policy"):
                assert argument.default == ""


def test_without_arguments_the_policy_node_gets_only_the_parameter_file() -> None:
    values = given(POLICY_ARGUMENTS)
    (process,) = policy(values)
    assert process == NodeProcess(
        "policy_node",
        parameters=(ROVERS,),
        environment={profile_variable(): str(share_path("config", "fastdds.xml")), **MALLOC_VARIABLES},
        sigterm_timeout_s=30,
    )
    assert onboard(given(ONBOARD_ARGUMENTS)) == [process]


@pytest.mark.parametrize(
    ("value", "truth"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_arguments_override_the_parameter_file(value: str, truth: bool) -> None:
    (process,) = policy(
        given(POLICY_ARGUMENTS, autostart=value, use_sim_time=value, namespace="north", log_level="warn")
    )
    assert overrides(process) == {"autostart": truth, "use_sim_time": truth, "log_level": "warn"}
    assert process.namespace == "north"


def test_set_environment_variables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    monkeypatch.setenv(FASTDDS_VARIABLE, "own.xml")
    (process,) = policy(given(POLICY_ARGUMENTS))
    assert process.environment.keys() == MALLOC_VARIABLES.keys() - {"MALLOC_TOP_PAD_"}
    (process,) = policy(given(POLICY_ARGUMENTS, malloc="false"))
    assert process.environment == {}


@pytest.mark.parametrize("arguments", ALL_ARGUMENTS.values(), ids=ALL_ARGUMENTS.keys())
def test_robots_is_a_list_and_robot_count_a_number(arguments: Sequence[Argument]) -> None:
    described = {argument.name: argument.description for argument in arguments}
    assert "such as [" in described.get("robots", "such as [")
    assert described.get("robot_count", "Number of").startswith("Number of")


def test_an_empty_profile_leaves_the_transport_alone(tmp_path: Path) -> None:
    own = tmp_path / "own.xml"
    own.touch()
    for decide, arguments in ((policy, POLICY_ARGUMENTS), (rover_sim, ROVER_SIM_ARGUMENTS), (demo, DEMO_ARGUMENTS)):
        variables = [process.environment for process in decide(given(arguments, fastdds_profile=str(own)))]
        assert [environment[profile_variable()] for environment in variables] == [str(own)] * len(variables)
        for process in decide(given(arguments, fastdds_profile="")):
            assert profile_variable() not in process.environment


def test_the_demonstration_ends_with_its_simulation() -> None:
    simulation, node = demo(given(DEMO_ARGUMENTS))
    assert (simulation.ends_launch, node.ends_launch) == (True, False)
    assert not any(process.ends_launch for process in rover_sim(given(ROVER_SIM_ARGUMENTS)))


def test_each_argument_of_onboard_sets_its_parameter() -> None:
    (process,) = onboard(
        given(
            ONBOARD_ARGUMENTS,
            robots="[rover_7]",
            device="cpu",
            priority="0",
            cpus="[0,3]",
            record="runs",
            rmw="rmw_zenoh_cpp",
            respawn="true",
        )
    )
    assert overrides(process) == {
        "robots": ["rover_7"],
        "policy.device": "cpu",
        "realtime.priority": 0,
        "realtime.cpus": [0, 3],
        "record.path": "runs",
    }
    assert process.environment["RMW_IMPLEMENTATION"] == "rmw_zenoh_cpp"
    assert process.respawn_delay_s == 5


def test_each_shard_is_a_node_and_devices_are_used_in_turn() -> None:
    values = given(FLEET_ARGUMENTS, shards="3", devices="[cuda:0,cuda:1]", discovery_server="10.0.0.1:11811")
    nodes = fleet(values)
    assert [node.name for node in nodes] == ["policy_node_0", "policy_node_1", "policy_node_2"]
    assert [overrides(node) for node in nodes] == [
        {"shard": "0/3", "policy.device": "cuda:0"},
        {"shard": "1/3", "policy.device": "cuda:1"},
        {"shard": "2/3", "policy.device": "cuda:0"},
    ]
    assert {node.environment["ROS_DISCOVERY_SERVER"] for node in nodes} == {"10.0.0.1:11811"}


def test_one_shard_starts_alone() -> None:
    (node,) = fleet(given(FLEET_ARGUMENTS, shards="3", index="1"))
    assert (node.name, overrides(node)) == ("policy_node_1", {"shard": "1/3"})
    assert "ROS_DISCOVERY_SERVER" not in node.environment


def test_the_simulation_has_the_rovers_of_the_parameter_file(tmp_path: Path) -> None:
    file = parameter_file(tmp_path, robots="[rover_0, rover_1]")
    simulation, node = demo(given(DEMO_ARGUMENTS, params_file=file))
    assert "--robots=2" in simulation.arguments
    assert overrides(node) == {}


def test_a_given_number_of_rovers_overrides_the_parameter_file() -> None:
    simulation, node = demo(given(DEMO_ARGUMENTS, robot_count="2"))
    assert "--robots=2" in simulation.arguments
    assert overrides(node) == {"robots": ["rover_0", "rover_1"]}


@pytest.mark.parametrize("robots", ["[]", "[rover_1]", "[arm]", "rover_0"])
def test_robots_that_the_simulation_does_not_have_are_refused(tmp_path: Path, robots: str) -> None:
    file = parameter_file(tmp_path, robots=robots)
    with pytest.raises(ValueError, match=r"found robots: .*give robot_count:= with their number"):
        demo(given(DEMO_ARGUMENTS, params_file=file))


@pytest.mark.parametrize(
    ("in_file", "argument", "expected"),
    [("true", "", ({"use_sim_time": True},)), ("true", "false", ({"use_sim_time": False},)), (None, "", ())],
)
def test_the_simulation_follows_the_time_of_its_node(
    tmp_path: Path, in_file: str | None, argument: str, expected: tuple[dict[str, bool], ...]
) -> None:
    file = parameter_file(tmp_path, **({"use_sim_time": in_file} if in_file else {}))
    simulation, node = demo(given(DEMO_ARGUMENTS, params_file=file, use_sim_time=argument))
    assert simulation.parameters == expected
    assert node.parameters == (file, *(expected if argument else ()))


def test_the_options_of_the_simulation_are_those_of_its_executable() -> None:
    from policy_node_rover.mujoco.rover_sim import parse_options

    (simulation,) = rover_sim(given(ROVER_SIM_ARGUMENTS, robot_count="3", rate_hz="15", speed="0", renderer="raycast"))
    options = parse_options(simulation.arguments)
    assert (options.robots, options.rate_hz, options.speed, options.renderer, options.seed) == (3, 15, 0, "raycast", 0)
    assert simulation.parameters == ()


@pytest.mark.parametrize(
    ("decide", "arguments", "values", "error"),
    [
        (policy, POLICY_ARGUMENTS, {"params_file": "missing.yaml"}, "params_file:=missing.yaml: there is no such file"),
        (policy, POLICY_ARGUMENTS, {"params_file": ""}, "params_file:=: there is no such file"),
        (policy, POLICY_ARGUMENTS, {"fastdds_profile": "no.xml"}, "fastdds_profile:=no.xml: there is no such file"),
        (rover_sim, ROVER_SIM_ARGUMENTS, {"fastdds_profile": "no.xml"}, "fastdds_profile:=no.xml: there is no such"),
        (policy, POLICY_ARGUMENTS, {"autostart": "maybe"}, "autostart:=maybe: give true or false"),
        (onboard, ONBOARD_ARGUMENTS, {"priority": "high"}, "priority:=high: give a whole number from 0 to 99"),
        (onboard, ONBOARD_ARGUMENTS, {"cpus": "2,3"}, "cpus:=2,3: give a list such as [2,3], without spaces"),
        (onboard, ONBOARD_ARGUMENTS, {"cpus": "[two]"}, "cpus:=[two]: give a list such as [2,3], without spaces"),
        (onboard, ONBOARD_ARGUMENTS, {"cpus": "0"}, "cpus:=0: give a list such as [2,3], without spaces"),
        (onboard, ONBOARD_ARGUMENTS, {"robots": "rover_0"}, "robots:=rover_0: give a list such as [rover_0,rover_1]"),
        (onboard, ONBOARD_ARGUMENTS, {"robots": "["}, "robots:=[: give a list such as [rover_0,rover_1]"),
        (onboard, ONBOARD_ARGUMENTS, {"respawn": "often"}, "respawn:=often: give true or false"),
        (fleet, FLEET_ARGUMENTS, {}, "shards:=: give a whole number from 1 to 1000"),
        (fleet, FLEET_ARGUMENTS, {"shards": "none"}, "shards:=none: give a whole number from 1 to 1000"),
        (fleet, FLEET_ARGUMENTS, {"shards": "2", "index": "2"}, "index:=2: give a whole number from 0 to 1"),
        (
            fleet,
            FLEET_ARGUMENTS,
            {"shards": "2", "devices": "cuda:0"},
            "devices:=cuda:0: give a list such as [cuda:0,cuda:1], without spaces",
        ),
        (rover_sim, ROVER_SIM_ARGUMENTS, {"robot_count": "0"}, "robot_count:=0: give a whole number from 1 to 256"),
        (demo, DEMO_ARGUMENTS, {"robot_count": "257"}, "robot_count:=257: give a whole number from 1 to 256"),
    ],
)
def test_invalid_arguments_are_refused(decide: Any, arguments: Any, values: dict[str, str], error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        decide(given(arguments, **values))
