# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Accepted and refused configurations, their errors, and the documented examples."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from policy_node.config.schema import (
    PARAMETERS,
    Configuration,
    ConfigurationError,
    check_same_sensors,
    commands_of,
    flatten,
    limits_of,
    observations_of,
    parameters_for,
    parse_configuration,
    with_limits,
)

ROOT = Path(__file__).resolve().parents[2]

ROVERS: dict[str, Any] = {
    "control_rate_hz": 20.0,
    "robots": ["rover_0", "rover_1"],
    "policy": {"path": "rover.zip"},
    "observations": {
        "keys": ["image", "touch"],
        "image": {"topic": "camera/image_raw", "type": "sensor_msgs/msg/Image", "encoding": "rgb8"},
        "touch": {"topic": "touch", "type": "sensor_msgs/msg/JointState", "field": "effort", "joints": ["a", "b"]},
    },
    "synchronisation": {"slop_s": 0.03, "max_age_s": 0.2},
    "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x", "angular.z"]},
}
ARM = {"type": "sensor_msgs/msg/JointState", "fields": [], "joints": ["shoulder", "elbow"], "safe_command": [0.0, 1.0]}


TERMS: dict[str, Any] = {
    "observations.keys": ["state"],
    "observations.state.terms": ["position", "velocity", "gravity", "wish", "gear", "action"],
    "observations.state.position.topic": "joints",
    "observations.state.position.type": "sensor_msgs/msg/JointState",
    "observations.state.velocity.topic": "joints",
    "observations.state.velocity.type": "sensor_msgs/msg/JointState",
    "observations.state.velocity.field": "velocity",
    "observations.state.gravity.topic": "imu",
    "observations.state.gravity.type": "sensor_msgs/msg/Imu",
    "observations.state.gravity.kind": "projected_gravity",
    "observations.state.wish.topic": "/wish",
    "observations.state.wish.type": "geometry_msgs/msg/Twist",
    "observations.state.wish.fields": ["linear.x", "angular.z"],
    "observations.state.wish.max_age_s": 0.5,
    "observations.state.gear.topic": "gear",
    "observations.state.gear.type": "std_msgs/msg/Int32",
    "observations.state.gear.kind": "one_hot",
    "observations.state.gear.categories": 3,
    "observations.state.action.kind": "previous_action",
}


def walkers(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a valid configuration whose observation is made of terms, changed; None removes a parameter."""
    kept = {name: value for name, value in rovers().items() if not name.startswith("observations.")}
    return {name: value for name, value in {**kept, **TERMS, **(changes or {})}.items() if value is not None}


def rovers(changes: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the valid configuration by dotted names, changed."""
    flat = {**flatten(copy.deepcopy(ROVERS)), **(changes or {})}
    return {name: value for name, value in flat.items() if name not in without}


def arm(**changes: Any) -> dict[str, Any]:
    """Return a valid configuration that commands joints, with its action changed."""
    return rovers({f"action.{name}": value for name, value in {**ARM, **changes}.items()})


def problems_of(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as error:
        parse_configuration(values)
    assert str(error.value) == "\n".join(error.value.problems)
    return error.value.problems


def test_nested_and_dotted_values_give_the_same():
    assert parse_configuration(ROVERS) == parse_configuration(rovers())


def test_values_reach_their_fields_and_others_have_defaults():
    configuration = parse_configuration(ROVERS)
    assert configuration.period_ns == 50_000_000
    assert configuration.robots == ("rover_0", "rover_1")
    assert configuration.autostart is True
    assert (configuration.policy.path, configuration.policy.device, configuration.policy.threads) == (
        "rover.zip",
        "auto",
        1,
    )
    image, touch = configuration.observations
    assert (image.key, image.topic, image.encoding, image.stack, image.is_image) == (
        "image",
        "camera/image_raw",
        "rgb8",
        1,
        True,
    )
    assert (touch.key, touch.field, touch.joints, touch.depth, touch.is_image) == (
        "touch",
        "effort",
        ("a", "b"),
        0,
        False,
    )
    assert (configuration.synchronisation.slop_s, configuration.synchronisation.max_age_s) == (0.03, 0.2)
    assert configuration.action.fields == ("linear.x", "angular.z")
    assert (configuration.action.when_stale, configuration.action.hold_s) == ("stop", 0.5)
    assert configuration.action.safe_command == ()


def test_parameters_that_ros_gives_every_node_are_allowed():
    parse_configuration(
        rovers(
            {
                "use_sim_time": True,
                "start_type_description_service": True,
                "qos_overrides./clock.subscription.depth": 3,
            }
        )
    )


@pytest.mark.parametrize(
    "values",
    [
        arm(),
        arm(type="trajectory_msgs/msg/JointTrajectory", when_stale="hold"),
        arm(type="std_msgs/msg/Float64MultiArray", joints=[], safe_command=[], when_stale="silent"),
        rovers({"action.table": [0.1, 0.2, 0.3, 0.4]}),
        rovers({"robots": ["fleet/rover_0", "/fleet/rover_1"]}),
        rovers({"robots": ["rover"], "action.topic": "/cmd_vel"}),
        rovers({"observations.touch.topic": "/shared/touch"}),
        rovers({"observations.image.encoding": "", "observations.image.stack": 4}),
    ],
)
def test_valid_variations_parse(values):
    assert isinstance(parse_configuration(values), Configuration)


@pytest.mark.parametrize("example", ["config/rover.yaml", "config/quadruped.yaml", "doc/configuration.md", "README.md"])
def test_the_documented_examples_parse(example):
    text = (ROOT / example).read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if example.endswith(".md") else [text]
    nodes = [node for block in blocks if "ros__parameters" in block for node in yaml.safe_load(block).values()]
    assert nodes
    for node in nodes:
        parse_configuration(node["ros__parameters"])


@pytest.mark.parametrize(
    ("name", "value", "found", "allowed"),
    [
        ("control_rate_hz", 20, "20 (int)", "a double; write 20.0"),
        ("control_rate_hz", "20.0", "'20.0' (str)", "a double"),
        ("control_rate_hz", True, "True (bool)", "a double"),
        ("control_rate_hz", 0.0, "0.0", "0.1 to 1000 Hz"),
        ("control_rate_hz", float("nan"), "nan", "finite, 0.1 to 1000 Hz"),
        ("autostart", "yes", "'yes' (str)", "a boolean"),
        ("autostart", 1, "1 (int)", "a boolean"),
        ("robots", "rover_0", "'rover_0' (str)", "a list of strings"),
        ("robots", [0, 1], "[0, 1] (list)", "a list of strings"),
        ("policy.threads", 0, "0", "1 to 256"),
        ("policy.threads", 1.0, "1.0 (float)", "an integer"),
        ("policy.threads", True, "True (bool)", "an integer"),
        ("policy.threads", 10**400, "1000", "1 to 256"),
        ("policy.path", None, "None (NoneType)", "a string"),
        ("observations.image.stack", 0, "0", "1 to 1000"),
        ("observations.image.encoding", "rgb", "'rgb'", "one of '', 'rgb8'"),
        ("observations.image.reliability", "Reliable", "'Reliable'", "one of 'best_effort', 'reliable'"),
        ("synchronisation.slop_s", -0.01, "-0.01", "0 to 10 s"),
        ("synchronisation.max_age_s", float("inf"), "inf", "finite, 0.001 to 60 s"),
        ("action.type", "geometry_msgs/Twist", "'geometry_msgs/Twist'", "geometry_msgs/msg/Twist"),
        ("action.when_stale", "brake", "'brake'", "one of 'stop', 'hold', 'silent'"),
        ("action.safe_command", [0, 0], "[0, 0] (list)", "a list of doubles; write every number with a decimal point"),
        ("action.safe_command", [0.0, float("nan")], "nan", "finite"),
        ("action.safe_command", [0.0], "1 numbers", "2 components"),
        ("action.table", [0.0, 1.0, 2.0], "3 numbers", "rows of 2"),
        ("action.topic", "/cmd_vel", "'/cmd_vel'", "remove the leading '/'"),
        ("robots", ["rover 0"], "'rover 0'", "letters, digits and underscores"),
        ("robots", ["0rover"], "'0rover'", "not starting with a digit"),
        ("robots", ["rövér"], "'rövér'", "letters, digits and underscores"),
        ("robots", ["//rover"], "'//rover'", "levels separated by '/'"),
        ("robots", ["rover/"], "'rover/'", "levels separated by '/'"),
        ("robots", ["rover", "cart", "rover"], "'rover' stands there 2 times", "unique"),
        ("robots", ["rover", "/rover"], "'rover' stands there 2 times", "unique"),
        ("claims_topic", "", "''", "one name to all nodes"),
        ("claims_topic", "~/claims", "'~/claims'", "one name to all nodes"),
        ("observations.keys", ["image", "touch", "touch"], "'touch' stands there 2 times", "unique"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name, value, found, allowed):
    problems = problems_of(rovers({name: value}))
    (problem,) = [problem for problem in problems if problem.startswith(f"{name}: ")]
    assert found in problem
    assert allowed in problem


@pytest.mark.parametrize("key", ["", "image.left", "."])
def test_a_key_that_cannot_be_part_of_a_parameters_name_is_refused(key):
    changes = {"observations.keys": ["image", "touch", key]}
    changes |= {f"observations.{key}.topic": "left", f"observations.{key}.type": "sensor_msgs/msg/Image"}
    assert problems_of(rovers(changes)) == (
        f"observations.keys: found {key!r}, but a key is a name without dots; rename it",
    )


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("control_rate", 20.0, "did you mean control_rate_hz?"),
        ("action.when_state", "stop", "did you mean action.when_stale?"),
        ("observations.image.topics", "a", "did you mean observations.image.topic?"),
        ("observations.sonar.topic", "sonar", "observations.keys does not name 'sonar'"),
        ("zzz", 1, "action.constants, action.deadline_s, action.field"),
    ],
)
def test_an_unknown_parameter_is_named_with_its_remedy(name, value, remedy):
    (problem,) = problems_of(rovers({name: value}))
    assert problem.startswith(f"{name}: found {value!r}")
    assert remedy in problem


@pytest.mark.parametrize(
    ("found", "remedy"),
    [
        ("sensor_msgs/JointState", "did you mean sensor_msgs/msg/JointState?"),
        ("sensor_msgs/msg/Jointstate", "did you mean sensor_msgs/msg/JointState?"),
        ("Sensor_msgs/msg/jointState", "did you mean sensor_msgs/msg/JointState?"),
        ("sensor_msg/JointState", "did you mean sensor_msgs/msg/JointState?"),
        ("JointState", "did you mean sensor_msgs/msg/JointState?"),
        ("sensor_msgs/Range", "did you mean sensor_msgs/msg/Range?"),
        ("my_robot/Whiskers", "did you mean my_robot/msg/Whiskers?"),
        ("my robot", "as in sensor_msgs/msg/Image"),
    ],
)
def test_a_misspelt_type_is_the_only_problem_of_its_topic(found: str, remedy: str) -> None:
    said = f"found {found!r}, but a type is spelled package/msg/Type; {remedy}"
    # The joints beside it are valid.
    assert problems_of(rovers({"observations.touch.type": found})) == (f"observations.touch.type: {said}",)
    terms = {f"{STATE}.position.type": found, f"{STATE}.position.joints": ["a"]}
    assert problems_of(walkers(terms)) == (f"{STATE}.position.type: {said}",)


@pytest.mark.parametrize(
    ("values", "found", "meant"),
    [
        (rovers({"observations.keys": ["image", "tuch"]}), "tuch", "touch"),
        # As ROS returns it, with the declared defaults.
        (rovers({"observations.keys": ["image", "tuch"], "observations.tuch.terms": []}), "tuch", "touch"),
        (walkers({"observations.keys": ["stat"]}), "stat", "state"),
    ],
)
def test_a_misspelt_key_is_one_problem(values: dict[str, Any], found: str, meant: str) -> None:
    assert problems_of(values) == (
        f"observations.keys: found {found!r}, of which nothing is given; did you mean {meant!r}?",
    )


# The second is as ROS returns it, with the declared defaults.
@pytest.mark.parametrize("declared", [{}, {"topic": "", "type": "", "kind": "sensor", "scale": []}])
def test_a_misspelt_term_is_one_problem(declared: dict[str, Any]) -> None:
    named = ["gravty" if term == "gravity" else term for term in TERMS[f"{STATE}.terms"]]
    defaults = {f"{STATE}.gravty.{name}": value for name, value in declared.items()}
    assert problems_of(walkers({f"{STATE}.terms": named, **defaults})) == (
        f"{STATE}.terms: found 'gravty', of which nothing is given; did you mean 'gravity'?",
    )


@pytest.mark.parametrize(
    "name",
    [p.name.replace("<key>", "image") for p in PARAMETERS if p.default is None and "<command>" not in p.name],
)
def test_a_missing_parameter_is_named(name):
    assert any(problem.startswith(f"{name}: missing; give a") for problem in problems_of(rovers(without=(name,))))


@pytest.mark.parametrize(
    "name", ["robots", "observations.keys", "policy.path", "observations.touch.topic", "action.topic"]
)
def test_an_empty_required_value_is_refused(name):
    empty = [] if name in ("robots", "observations.keys") else ""
    assert any(problem.startswith(f"{name}: empty; give a") for problem in problems_of(rovers({name: empty})))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            rovers({"observations.touch.encoding": "rgb8"}),
            "observations.touch.encoding: given for a sensor_msgs/msg/JointState",
        ),
        (rovers({"observations.image.joints": ["a"]}), "observations.image.joints: given for a sensor_msgs/msg/Image"),
        (rovers({"action.fields": []}), "action.fields: missing; a geometry_msgs/msg/Twist needs the field"),
        (rovers({"action.joints": ["a", "b"]}), "action.joints: given for a geometry_msgs/msg/Twist"),
        (arm(joints=[], safe_command=[0.0]), "action.joints: missing; a sensor_msgs/msg/JointState needs the joint"),
        (arm(fields=["linear.x"]), "action.fields: given for a sensor_msgs/msg/JointState"),
        (arm(safe_command=[]), "action.safe_command: missing; for a sensor_msgs/msg/JointState zeros may move a robot"),
        (arm(safe_command=[], when_stale="hold"), "action.safe_command: missing"),
        (arm(safe_command=[0.0]), "action.safe_command: found 1 numbers, but a command has 2"),
    ],
)
def test_rules_across_parameters(values, problem):
    assert any(found.startswith(problem) for found in problems_of(values))


STATE = "observations.state"


def test_terms_of_one_topic_share_it_and_what_is_not_synchronised_comes_last():
    configuration = parse_configuration(walkers())
    (observation,) = configuration.observations
    assert (observation.key, observation.topic, observation.encoding, observation.depth) == ("state", "", "", 0)
    assert [term.name for term in observation.terms] == [f"state.{name}" for name in TERMS[f"{STATE}.terms"]]
    assert [[source.name for source in sources] for sources in configuration.sensors] == [
        ["state.position", "state.velocity"],
        ["state.gravity"],
        ["state.gear"],
        ["state.wish"],
    ]
    apart = parse_configuration(walkers({f"{STATE}.velocity.depth": 3}))
    assert [sources[0].name for sources in apart.sensors[:2]] == ["state.position", "state.velocity"]


def test_the_present_position_is_the_last_sensor():
    position = {"safe_command": [], "safe_position_topic": "joint_states"}
    commands = {name: value for name, value in arm(**position).items() if name.startswith("action.")}
    configuration = parse_configuration(walkers({"action.fields": None, **commands}))
    assert configuration.safe_position is not None
    assert configuration.sensors[-1] == (configuration.safe_position,)
    assert configuration.safe_position not in configuration.sources
    assert not configuration.safe_position.is_synchronised
    assert configuration.safe_position.name == "action.safe_position"
    assert configuration.safe_position.joints == ("shoulder", "elbow")
    measured = parse_configuration(arm(**position, safe_position_joints=["a", "b"])).safe_position
    assert measured is not None and measured.joints == ("a", "b")
    assert parse_configuration(rovers()).safe_position is None


def test_limits_are_read_and_replaced_by_name():
    configuration = parse_configuration(rovers({"action.high": [0.5, 1.0]}))
    assert limits_of(configuration) == {
        "action.low": (),
        "action.high": (0.5, 1.0),
        "action.max_rate": (),
        "synchronisation.max_age_s": 0.2,
    }
    changed = {"action.high": [0.25], "synchronisation.max_age_s": 0.5}
    flat = rovers({"action.high": [0.25], "synchronisation.max_age_s": 0.5})
    assert limits_of(with_limits(configuration, changed)) == limits_of(parse_configuration(flat))
    assert with_limits(configuration, limits_of(configuration)) == configuration


def test_an_age_may_change_while_sensors_are_used_only_if_they_are_used_alike():
    own, other = (parse_configuration(rovers({"observations.touch.max_age_s": age_s})) for age_s in (1.0, 2.0))
    check_same_sensors(own, other)
    with pytest.raises(ConfigurationError, match=r"neither from nor to 0.0"):
        check_same_sensors(own, parse_configuration(rovers()))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"action.safe_position_topic": "joint_states"}, "action.safe_position_topic: given for a geometry_msgs/msg/T"),
        (
            {"action.safe_position_joints": ["a", "b"]},
            "action.safe_position_joints: given without action.safe_position_topic",
        ),
        ({"action.deadline_s": 0.05}, "action.deadline_s: found 0.05, but commands are 0.05 s apart"),
    ],
)
def test_parameters_of_another_command_type_are_refused(changes, problem):
    assert any(found.startswith(problem) for found in problems_of(rovers(changes)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"field": "velocity"}, "action.safe_position_topic: given, but action.field is velocity"),
        ({"safe_command": [0.0, 1.0]}, "action.safe_position_topic: given beside action.safe_command"),
        ({"safe_position_joints": ["a"]}, "action.safe_position_joints: found 1, but action.joints has 2"),
        (
            {"type": "std_msgs/msg/Float64MultiArray", "joints": []},
            "action.safe_position_joints: missing; give the joint of each component",
        ),
    ],
)
def test_a_present_position_fits_the_command(changes, problem):
    values = arm(**{"safe_command": [], "safe_position_topic": "joint_states", **changes})
    assert any(found.startswith(problem) for found in problems_of(values))


def test_the_compiled_engine_of_earlier_versions_is_refused_with_the_remedy():
    assert problems_of(rovers({"policy.compile": True})) == (
        "policy.compile: found True, but no engine compiles the policy any more; remove it",
    )
    (problem,) = problems_of(rovers({"policy.engine": "aotinductor"}))
    assert problem.startswith("policy.engine: found 'aotinductor'") and "onnxruntime" in problem


def test_observations_of_one_topic_do_not_share_it():
    same = {"observations.touch.topic": "camera/image_raw", "observations.touch.type": "sensor_msgs/msg/Image"}
    values = rovers(same, without=("observations.touch.field", "observations.touch.joints"))
    assert [len(sources) for sources in parse_configuration(values).sensors] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({f"{STATE}.terms": ["gravity", "gravity"]}, f"{STATE}.terms: 'gravity' stands there 2 times"),
        ({f"{STATE}.terms": ["a.b"]}, f"{STATE}.terms: found 'a.b', but a term is a name without dots"),
        ({f"{STATE}.topic": "state"}, f"{STATE}.topic: found 'state', but this observation is made of terms"),
        ({f"{STATE}.speed.topic": "a"}, f"{STATE}.speed.topic: found 'a', but {STATE}.terms does not name 'speed'"),
        ({f"{STATE}.gear.scales": [1.0]}, f"{STATE}.gear.scales: found [1.0], but there is no such parameter; did"),
        ({f"{STATE}.gear.topic": None}, f"{STATE}.gear.topic: missing; a term that is a one_hot needs"),
        ({f"{STATE}.gear.type": None}, f"{STATE}.gear.type: missing; a term that is a one_hot needs"),
        ({f"{STATE}.action.topic": "a"}, f"{STATE}.action.topic: given for a previous_action"),
        ({f"{STATE}.gear.categories": None}, f"{STATE}.gear.categories: missing or 0; a one_hot has 1 or more"),
        (
            {f"{STATE}.wish.categories": 2},
            f"{STATE}.wish.categories: given for a sensor; a one_hot has 1 or more, any other kind has none; did you "
            "mean `kind: one_hot`? Else remove it",
        ),
        ({f"{STATE}.gravity.default": [0.0]}, f"{STATE}.gravity.default: given for a projected_gravity"),
        ({f"{STATE}.wish.clip": [1.0]}, f"{STATE}.wish.clip: found [1.0], but it is the lowest and the highest"),
        ({f"{STATE}.wish.clip": [1.0, -1.0]}, f"{STATE}.wish.clip: found [1.0, -1.0], but"),
        ({f"{STATE}.wish.scale": [1]}, f"{STATE}.wish.scale: found [1] (list), but it must be a list of doubles"),
        ({f"{STATE}.wish.field": "linear"}, f"{STATE}.wish.fields: given beside {STATE}.wish.field; add"),
        ({f"{STATE}.wish.fields": ["linear.x", ""]}, f"{STATE}.wish.fields: found an empty path"),
        ({f"{STATE}.position.fields": ["a"]}, f"{STATE}.position.fields: given for a sensor_msgs/msg/JointState"),
        ({f"{STATE}.wish.joints": ["a"]}, f"{STATE}.wish.joints: given for a geometry_msgs/msg/Twist"),
        ({f"{STATE}.gear.type": "sensor_msgs/msg/Image"}, f"{STATE}.gear.type: found an image"),
        ({f"{STATE}.history": 3, f"{STATE}.stack": 2}, f"{STATE}.history: found 3 beside a stack of 2"),
        ({f"{STATE}.terms": ["wish"]}, f"{STATE}.wish.max_age_s: no topic is synchronised"),
        (
            {f"{STATE}.terms": ["wish"], f"{STATE}.wish.max_age_s": 0.0, f"{STATE}.wish.when_silent": "zeros"},
            f"{STATE}.wish.when_silent: no topic is synchronised",
        ),
        ({f"{STATE}.action.when_silent": "zeros"}, f"{STATE}.action.when_silent: given for a previous_action"),
        ({f"{STATE}.gravity.when_silent": "zeros"}, f"{STATE}.gravity.when_silent: found zeros, which are no orient"),
        ({f"{STATE}.wish.when_silent": "zero"}, f"{STATE}.wish.when_silent: found 'zero', but it must be one of"),
        ({f"{STATE}.terms": ["action"]}, "observations.keys: no topic is synchronised"),
        ({f"{STATE}.shape": [0]}, f"{STATE}.shape: found (0,), but it must be finite, 1 to 1e+06"),
        ({"action.low": [0.0], "action.high": [1.0, -1.0]}, "action.low: found [0.0], but the upper bounds are [1.0"),
        ({"action.low": [0.0, 0.0], "action.high": [1.0] * 3}, "action.low: found 2 numbers, but there are 3 upper"),
        ({"policy.low": [1.0], "policy.high": [-1.0]}, "policy.low: found [1.0], but the upper bounds are [-1.0]"),
    ],
)
def test_rules_across_terms_and_bounds(changes, problem):
    removed = set(TERMS[f"{STATE}.terms"]) - set(changes.get(f"{STATE}.terms", TERMS[f"{STATE}.terms"]))
    unnamed = {name: None for name in TERMS if name.split(".")[2:3] and name.split(".")[2] in removed}
    assert any(found.startswith(problem) for found in problems_of(walkers({**unnamed, **changes})))


def test_all_problems_are_reported_at_once():
    changes = {"control_rate_hz": 20, "policy.device": 7, "action.hold": 1.0, "observations.image.stack": -1}
    names = [problem.split(":")[0] for problem in problems_of(rovers(changes, without=("robots",)))]
    assert sorted(names) == ["action.hold", "control_rate_hz", "observations.image.stack", "policy.device", "robots"]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=3),
    st.sampled_from(
        ["image", "touch", "rover_0", "image.x", "geometry_msgs/msg/Twist", "sensor_msgs/msg/Image", "hold"]
    ),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.lists(st.text(max_size=4), max_size=4),
    st.lists(st.floats(), max_size=4),
    st.dictionaries(st.text(max_size=5), SCALARS, max_size=2),
    st.tuples(SCALARS),
)
NAMES = st.one_of(
    st.sampled_from(sorted(parameters_for(["image", "touch"], {}))),
    st.sampled_from(sorted(parameters_for(["state"], {"state": ["wish", "gear"]}))),
    st.sampled_from(["observations.sonar.topic", "observations.keys.topic", "observations", "action.", ".", ""]),
    st.text(max_size=12),
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.sets(st.sampled_from(sorted(rovers())), max_size=2),
    st.sampled_from([arm, rovers, walkers]),
)
@example({"realtime.cpus": [10**400]}, set(), arm)
def test_any_mutation_parses_or_is_a_configuration_error(changes, without, base):
    values = {**base(), **changes}
    values = {name: value for name, value in values.items() if name not in without}
    try:
        configuration = parse_configuration(values)
    except ConfigurationError as error:
        keys = values.get("observations.keys")
        texts = [key for key in keys if isinstance(key, str)] if isinstance(keys, (list, tuple)) else []
        named = [*flatten(values), *parameters_for(texts, observations_of(values)[1], commands_of(values))]
        assert error.problems
        for problem in error.problems:
            assert any(problem.startswith(f"{name}: ") for name in named), problem
    else:
        assert configuration == parse_configuration(values)
