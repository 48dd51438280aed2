# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench chaos`: the judge finds violations, and a campaign has none."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from node_harness import Peer
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray

from policy_node_bench.chaos import observer
from policy_node_bench.chaos.faults import BY_NAME, FLEET_FAULTS, KINDS, Fault, plans
from policy_node_bench.chaos.judge import SAFETY, Judge, Limits, compare_lateness, grid_phase_s, judge_ticks
from policy_node_bench.chaos.policy import (
    IMAGE_SHAPE,
    GarbledCommandError,
    Origin,
    Reading,
    Request,
    TellTale,
    image_bytes,
    origin_of,
    position_numbers,
    save_policy,
    touch_numbers,
)
from policy_node_bench.chaos.report import judge_resources, markdown, missed_deadlines, resource_figures
from policy_node_bench.chaos.robot import Behaviour, ReadingMessages
from policy_node_bench.harness.robots import COMMAND_TOPIC, robot_name

LIMITS = Limits(period_s=0.05, max_age_s=0.2, slop_s=0.03)
# A safe command is the position of the robot.
SAFE = position_numbers(Reading(0, 900_000))

readings = st.builds(Reading, robot=st.integers(0, 999), time_us=st.integers(0, 10_000_000_000))


LIGHT = {kind for kind in KINDS if kind.fleet and not kind.rare}


def rows_of(*readings: Reading, request: Request = Request.NOTHING, argument_s: float = 0.0) -> dict[str, torch.Tensor]:
    images = [np.frombuffer(image_bytes(reading), np.uint8).reshape(IMAGE_SHAPE) for reading in readings]
    touches = [touch_numbers(reading, request, argument_s).astype(np.float32) for reading in readings]
    return {"image": torch.from_numpy(np.stack(images)), "touch": torch.from_numpy(np.stack(touches))}


def command_from(robot: int, time_s: float, policy: int = 0) -> np.ndarray:
    """Return what a policy gives for a reading of a robot."""
    return TellTale(policy)(**rows_of(Reading(robot, round(time_s * 1e6))))[0].double().numpy()


@settings(deadline=None)
@given(touch=readings, image=readings)
def test_a_command_names_the_readings_it_was_computed_from(touch: Reading, image: Reading) -> None:
    rows = {"image": rows_of(image)["image"], "touch": rows_of(touch)["touch"]}
    for policy in (0, 1):
        assert origin_of(TellTale(policy)(**rows)[0].double().numpy()) == Origin(touch, image, policy)


@given(position=readings)
def test_a_safe_command_names_the_position_of_its_robot(position: Reading) -> None:
    assert origin_of(position_numbers(position)) == position


def test_a_command_from_invalid_readings_is_garbled() -> None:
    good = rows_of(Reading(1, 5))
    torn = good["image"].clone()
    torn[:, 20:] = 7
    noise = torch.rand(1, good["touch"].shape[1])
    for rows in (good | {"image": torn}, good | {"touch": noise}):
        with pytest.raises(GarbledCommandError):
            origin_of(TellTale()(**rows)[0].double().numpy())
    for command in (np.full(8, np.nan), SAFE[:7], SAFE + 0.5, 2 * SAFE):
        with pytest.raises(GarbledCommandError):
            origin_of(command)


def test_the_policy_fails_on_request_of_a_reading(tmp_path: Path) -> None:
    save_policy(tmp_path / "policy.pt")
    policy = torch.jit.load(str(tmp_path / "policy.pt"))
    good, bad = Reading(0, 1), Reading(1, 2)
    parts = [rows_of(good), rows_of(bad, request=Request.NAN)]
    commands = policy(*(torch.cat([part[key] for part in parts]) for key in ("image", "touch")))
    assert origin_of(commands[0].double().numpy()) == Origin(good, good)
    assert commands[1].isnan().all()
    with pytest.raises(torch.jit.Error, match="requested a failure of the policy"):
        policy(**rows_of(bad, request=Request.RAISE))
    assert origin_of(policy(**rows_of(bad, request=Request.BLOCK, argument_s=0.01))[0].double().numpy()) == Origin(
        bad, bad
    )


def test_messages_are_valid_without_a_fault_and_invalid_with_one() -> None:
    messages, reading = ReadingMessages(seed=1), Reading(3, 4_500_000)
    image, touch = messages(reading, 2_000_000_007, Behaviour())
    image, touch = deserialize_message(image, Image), deserialize_message(touch, JointState)
    assert (
        (touch.header.stamp.sec, touch.header.stamp.nanosec)
        == (2, 7)
        == (image.header.stamp.sec, image.header.stamp.nanosec)
    )
    assert list(touch.effort) == touch_numbers(reading).tolist()
    assert (image.height, image.width, image.encoding) == (*IMAGE_SHAPE[:2], "rgb8") and bytes(
        image.data
    ) == image_bytes(reading)
    assert np.isnan(deserialize_message(messages(reading, 0, Behaviour("nan"))[1], JointState).effort).sum() == 1
    for fault, left in (("wrong_size", 4), ("partial", 3)):
        found = deserialize_message(messages(reading, 0, Behaviour(fault))[1], JointState)
        values = dict(zip(touch.name, touch.effort, strict=True))
        assert (
            len(found.name) == len(found.effort) == left
            and dict(zip(found.name, found.effort, strict=True)).items() < values.items()
        )
        # A joined reading has the time of its oldest joints.
        assert not {"touch_1", "touch_2"} & set(found.name)
    gripper = deserialize_message(messages.gripper(2_000_000_007), JointState)
    assert gripper.header == touch.header and not set(gripper.name) & set(touch.name)
    assert messages(reading, 0, Behaviour("random_bytes")) != messages(reading, 0, Behaviour("random_bytes"))
    assert len(messages(reading, 0, Behaviour("truncated_image"))[0]) < len(image_bytes(reading))


def test_readings_are_delayed_up_to_the_age_allowed() -> None:
    ages_s = [Behaviour("delayed", delay_s=0.14).age_s(number) for number in range(60)]
    assert min(ages_s) == ages_s[0] == ages_s[30] == 0.14 and max(ages_s) == pytest.approx(0.198)
    assert Behaviour().age_s(7) == 0.0


def test_the_stamp_of_a_reading_is_the_system_time_of_its_content() -> None:
    before_ns, now_ns, after_ns = time.time_ns(), time.monotonic_ns(), time.time_ns()
    assert before_ns - 200_000 <= Behaviour().stamp_ns(now_ns, 0.0) <= after_ns + 200_000
    earlier_ns = Behaviour().stamp_ns(now_ns - 10**9, 0.5)
    assert before_ns - 200_000 <= earlier_ns + 1_500_000_000 <= after_ns + 200_000
    assert Behaviour(zero_stamps=True).stamp_ns(now_ns, 0.0) == 0


def test_a_policy_is_not_asked_to_block_again_after_the_time_for_it() -> None:
    asked = Behaviour("policy_blocks", block_s=2.0, until_ns=100)
    assert asked.at(99) is asked and asked.at(100) == Behaviour() and Behaviour("nan").at(10**18) == Behaviour("nan")


@pytest.mark.parametrize("robots", [2, 4, 16, 17])
def test_faults_have_a_seeded_order_and_one_robot_of_each_group(robots: int) -> None:
    groups, fleet = plans(robots, seed=7)
    again, _ = plans(robots, seed=7)
    count = len([kind for kind in KINDS if not kind.fleet])
    chosen = [list(itertools.islice(group, count)) for group in groups]
    assert chosen == [list(itertools.islice(group, count)) for group in again]
    assert all({planned.kind for planned in each} == {kind for kind in KINDS if not kind.fleet} for each in chosen)
    # In each cycle one of the rare kinds; they take turns.
    cycles = [{planned.kind for planned in itertools.islice(fleet, FLEET_FAULTS)} for _ in range(3)]
    assert all(LIGHT < cycle and len(cycle) == FLEET_FAULTS for cycle in cycles)
    assert set().union(*cycles) == {kind for kind in KINDS if kind.fleet}
    # Two groups never share a robot, and at any time one robot of each has a fault.
    targets = [{planned.robot for planned in each} for each in chosen]
    assert sum(map(len, targets)) == len(set().union(*targets))
    assert len(groups) <= robots // 2


def judge_of(*commands: tuple[int, float, np.ndarray], fault: Fault | None = None) -> Judge:
    judge = Judge(2, LIMITS)
    if fault is not None:
        judge.begin(fault)
    for command in commands:
        judge.command(*command)
    judge.finish()
    return judge


def test_commands_from_wrong_readings_are_violations() -> None:
    assert not judge_of((0, 1.0, command_from(0, 0.75))).violations
    assert judge_of((0, 1.0, command_from(0, 0.7))).violations == {"old_data": 1}
    assert judge_of((0, 1.0, command_from(1, 0.9))).violations == {"mixed_robots": 1}
    assert judge_of((0, 1.0, np.full(8, np.nan))).violations == {"garbled": 1}
    apart = command_from(0, 0.9)
    apart[4:6] = 0, 800_000
    assert judge_of((0, 1.0, apart)).violations == {"unsynchronised": 1}
    assert judge_of((0, 1.0, SAFE)).violations == {"stopped_without_cause": 1}


def test_the_safe_command_is_where_the_robot_was_stopped() -> None:
    def fault() -> Fault:
        result = Fault(BY_NAME["mixed_positions"], (0,), asked_s=0.9)
        result.begun_s, result.ended_s = 0.9, 2.0
        return result

    def positions(*commands: tuple[float, Reading]) -> list[tuple[int, float, np.ndarray]]:
        return [(0, sent_s, position_numbers(position)) for sent_s, position in commands]

    driven, healed = (0, 1.0, command_from(0, 0.9)), (0, 2.05, command_from(0, 2.0))
    # The position stays, and therefore grows old.
    held = positions((1.1, Reading(0, 1_000_000)), (1.9, Reading(0, 1_000_000)))
    assert not judge_of(driven, *held, healed, fault=fault()).violations
    old = positions((1.1, Reading(0, 700_000)))
    assert judge_of(driven, *old, healed, fault=fault()).violations == {"old_position": 1}
    of_another = positions((1.1, Reading(1, 1_000_000)))
    assert judge_of(driven, *of_another, healed, fault=fault()).violations == {"mixed_robots": 1}


def test_a_fault_without_detection_or_healing_is_a_violation() -> None:
    def fault() -> Fault:
        result = Fault(BY_NAME["killed"], (0,), asked_s=1.0)
        result.begun_s, result.ended_s = 1.0, 2.0
        return result

    healed = fault()
    driven, late = (0, 2.05, command_from(0, 2.0)), (0, 3.5, command_from(0, 3.4))
    assert not judge_of((0, 1.25, SAFE), driven, fault=healed).violations
    assert healed.is_healed and healed.detected_s == [1.25] and healed.healed_s == [2.05]
    assert judge_of((0, 1.5, SAFE), driven, fault=fault()).violations == {"detected_late": 1}
    assert judge_of(driven, fault=fault()).violations == {"undetected": 1}
    assert judge_of((0, 1.25, SAFE), late, fault=fault()).violations == {"healed_late": 1}
    # The robot is driven, but by readings from before the end of the cause.
    waiting = fault()
    judge = judge_of((0, 1.25, SAFE), (0, 2.05, command_from(0, 1.9)), fault=waiting)
    assert not waiting.is_healed
    judge.give_up(waiting, 9.0, lambda robot: f"why {robot}")
    assert judge.violations == {"not_healed": 1}
    # The fault does not excuse another robot.
    assert judge_of((1, 1.25, position_numbers(Reading(1, 1))), fault=fault()).violations == {
        "stopped_without_cause": 1
    }


@pytest.mark.parametrize("kind", ["alternating", "delayed"])
def test_some_faults_allow_both_commands(kind: str) -> None:
    fault = Fault(BY_NAME[kind], (0,), asked_s=1.0)
    fault.begun_s, fault.ended_s = 1.0, 2.0
    judge = judge_of((0, 1.1, SAFE), (0, 1.2, command_from(0, 1.1)), (0, 2.05, command_from(0, 2.0)), fault=fault)
    assert not judge.violations and fault.is_healed
    driven = Fault(BY_NAME[kind], (0,), asked_s=1.0)
    driven.begun_s, driven.ended_s = 1.0, 2.0
    assert not judge_of((0, 1.2, command_from(0, 1.1)), (0, 2.05, command_from(0, 2.0)), fault=driven).violations


def test_commands_of_another_policy_are_violations() -> None:
    judge = Judge(1, LIMITS)
    judge.expect_policies((0, 1), 2.0)
    judge.expect_policies([1], 3.0)
    for time_s, policy in ((1.0, 0), (2.5, 0), (2.6, 1), (3.1, 1)):
        judge.command(0, time_s, command_from(0, time_s, policy))
    assert not judge.violations
    for time_s, policy in ((1.9, 1), (3.1, 0), (3.2, 2)):
        judge.command(0, time_s, command_from(0, time_s, policy))
    assert judge.violations == {"wrong_policy": 3}


def test_a_stop_is_excused_if_the_machine_delayed_the_robot() -> None:
    judge = Judge(2, LIMITS)
    judge.command(0, 1.0, SAFE)
    judge.command(1, 1.0, position_numbers(Reading(1, 900_000)))
    judge.excuse(0, 0.7, 0.9)
    judge.finish()
    assert judge.excused == {"stopped_without_cause": 1}
    assert [detail["robot"] for detail in judge.details["stopped_without_cause"]] == [1]


@given(
    delays=st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 50), st.integers(0, 20)), max_size=30),
    stops=st.lists(st.integers(0, 80), min_size=1, max_size=20),
)
def test_a_stop_is_excused_within_any_delay_of_the_node_or_its_robot(
    delays: list[tuple[int, int, int]], stops: list[int]
) -> None:
    judge = Judge(2, LIMITS)
    for who, start, length in delays:
        judge.starve(start, start + length) if who < 0 else judge.excuse(who, start, start + length)
    for stop in stops:
        judge.note("stopped_without_cause", 0, stop)
    judge.finish()
    added_s = {-1: LIMITS.period_s, 0: LIMITS.age_s}
    known = [(start, start + length + added_s[who]) for who, start, length in delays if who in added_s]
    assert judge.excused["stopped_without_cause"] == sum(
        any(start <= stop <= end for start, end in known) for stop in stops
    )


def test_old_data_is_excused_if_the_node_waited_for_a_processor() -> None:
    judge = Judge(2, LIMITS)
    judge.starve(0.9, 1.1)
    judge.command(0, 1.0, command_from(0, 0.5))
    judge.command(0, 2.0, command_from(0, 1.5))
    # A lack of time cannot cause this one.
    judge.command(0, 1.0, command_from(1, 0.9))
    judge.finish()
    assert judge.excused == {"old_data": 1} and judge.violations == {"old_data": 1, "mixed_robots": 1}


@settings(deadline=None)
@given(phase=st.floats(0.0, 1.0), seed=st.integers(0, 9))
def test_missed_ticks_and_lateness_are_measured_on_the_grid(phase: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid_s = 100.0 + (phase + np.arange(400)) * LIMITS.period_s
    late_s = rng.uniform(0.0, 0.01, 400)
    # One tick takes 1.7 periods: the next one follows at once, none is missed.
    late_s[50], late_s[51] = 1.7 * LIMITS.period_s, 0.71 * LIMITS.period_s
    # Another takes 2.4: the next one is missed, the one after follows at once.
    late_s[200], late_s[202] = 2.4 * LIMITS.period_s, 0.41 * LIMITS.period_s
    sent_s = np.sort(np.delete(grid_s + late_s, [201, 300]))
    judge = Judge(1, LIMITS)
    for time_s in sent_s:
        judge.sent_s[0].append(time_s)
    phase_s = grid_phase_s(sent_s, LIMITS.period_s)
    ticks = judge_ticks(judge, [(0.0, 1000.0)], [phase_s])
    assert len(ticks.missed) == 2 and ticks.ticks == 400
    assert np.sort(ticks.lateness_ms[0])[-3:] == pytest.approx([35.5, 70.0, 85.0], abs=1.0)
    # Ticks of a robot with a fault are not judged.
    judge.concerned[0] += [(grid_s[190], grid_s[210]), (grid_s[295], grid_s[305])]
    assert not judge_ticks(judge, [(0.0, 1000.0)], [phase_s]).missed


def test_growth_is_distinguished_from_noise() -> None:
    time_s = np.arange(1800.0)
    steady = np.stack([time_s, 300 + np.sin(time_s), np.full(1800, 20), np.full(1800, 30)], axis=1)
    leaking = steady.copy()
    leaking[:, 1] += time_s * 0.01
    leaking[900:, 2] += 1
    for rows, expected in ((steady, set()), (leaking, {"memory", "descriptors"})):
        judge = Judge(1, LIMITS)
        figures = resource_figures(rows, 1800.0)
        judge_resources(judge, figures, 1800.0)
        assert figures["is_judged"] and set(judge.violations) == expected
    assert not resource_figures(steady[:60], 60.0)["is_judged"]


def test_lateness_has_a_limit_and_is_compared_with_that_without_faults() -> None:
    quiet, faults = [np.arange(101.0) / 10] * 3, [np.arange(101.0) / 5]
    figures = compare_lateness(quiet, faults, 0.05)
    assert figures["quiet_p99"] == pytest.approx(9.9) and figures["faults_p99"] == pytest.approx(19.8)
    assert figures["limit"] == pytest.approx(12.5) and figures["noise"] == pytest.approx(4.95, abs=0.1)


@pytest.mark.parametrize("reports", [True, False])
def test_missed_deadlines_are_observed_where_the_middleware_reports_them(
    reports: bool, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "reports_deadlines", lambda: reports)
    qos = QoSProfile(depth=1, deadline=Duration(seconds=0.1))
    publisher = peer.node.create_publisher(Float64MultiArray, f"{robot_name(0)}/{COMMAND_TOPIC}", qos)
    with observer.observed_deadlines(2, 0.1) as (missed_s, spin):
        peer.spin_until(publisher.get_subscription_count, "the robot")
        publisher.publish(Float64MultiArray())
        spin(0.5)
    assert np.isfinite(missed_s).tolist() == [reports, False]


@pytest.mark.parametrize(("deadline_s", "text"), [(0.12, "after 120 ms"), (None, "reports no missed deadlines")])
def test_the_report_names_the_missed_deadlines(deadline_s: float | None, text: str) -> None:
    assert text in missed_deadlines({"deadline_s": deadline_s})


@pytest.mark.over_dds
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 4, 6], ids=["reactivated", "no_home", "second_node"])
def test_a_campaign_has_no_safety_violations(tmp_path: Path, seed: int, request: pytest.FixtureRequest) -> None:
    file, section = tmp_path / "figures.json", tmp_path / "section.md"
    command = [
        sys.executable,
        "-m",
        "policy_node_bench.cli",
        "chaos",
        "--robots",
        "4",
        "--seconds",
        "32",
        "--seed",
        str(seed),
    ]
    # Timing is not judged, because the machine may be busy.
    command += ["--max-age", "0.3", "--busy", "--json", str(file), "--markdown", str(section)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(file.read_text())
    assert figures["violations"] == 0 and set(SAFETY) <= figures["violations_by_kind"].keys()
    assert figures["faults"].keys() > {kind.name for kind in LIGHT} | {request.node.callspec.id}
    assert figures["full_disks"] == ("reactivated" in figures["faults"])
    assert figures["commands"]["driven"] > 0 and figures["commands"]["safe"] > 0
    for row in figures["faults"].values():
        assert row["heal_s"]["p50"] > 0.0
    assert section.read_text() == markdown(figures)
