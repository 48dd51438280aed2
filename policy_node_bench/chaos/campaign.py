# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run the node and the robots under test, inject the faults and collect what the judge needs.

The node and every robot run in separate processes and communicate over DDS. The policy copies robot and time of
its readings into the command, which therefore shows which readings it was computed from.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.process_environment import memory_environment
from policy_node.report.figures import machine, progress_bar
from policy_node.ros.middleware import reports_deadlines
from policy_node_bench.chaos.cli import ChaosOptions
from policy_node_bench.chaos.faults import FLEET_FAULTS, Fault, Planned, plans
from policy_node_bench.chaos.fleet import NORMAL, Bystander, Injection, RobotProcess
from policy_node_bench.chaos.judge import Judge, Limits, grid_phase_s, judge_ticks
from policy_node_bench.chaos.observer import Observer, observed_deadlines
from policy_node_bench.chaos.operations import RECORDINGS, Operation, Operations, policy_file, small_disk
from policy_node_bench.chaos.policy import (
    COMMAND_SIZE,
    IMAGE_SHAPE,
    POLICIES,
    POSITION_JOINTS,
    SECOND_POLICY,
    TOUCH_JOINTS,
)
from policy_node_bench.chaos.report import (
    fault_figures,
    judge_resources,
    judge_timing,
    resource_figures,
    schedule_of,
    violation_figures,
)
from policy_node_bench.chaos.robot import POSITION_TOPIC, RobotOptions, Slipped, intruder_process, positions_process
from policy_node_bench.harness.observer import START_TIMEOUT_S
from policy_node_bench.harness.processes import node_arguments
from policy_node_bench.harness.robots import robot_name, robot_parameters

NODE_NAME = "policy_chaos_node"
SETTLE_S = 3.0
CYCLE_S = 60.0
# Part of a cycle without faults, and its shortest length.
QUIET_PART = 0.15
QUIET_S = 4.0
# synchronisation.slop_s: the readings of a robot are taken at the same time.
SLOP_S = 0.03
# Runs a command with a niceness, also of its session, where Linux shares the CPUs by session (autogroup).
LOWER_PRIORITY = '{ echo "$0" > /proc/self/autogroup; } 2> /dev/null; exec nice -n "$0" "$@"'
# Time at the end of a cycle for each fault of the whole fleet.
FLEET_FAULT_S = 3.0
POLL_S = 0.02
SAMPLE_S = 1.0
STARVATION_CHECK_S = 0.1
# Deadline that the robots request, in periods; the node offers the same by default.
DEADLINE_PERIODS = 3
CEASE_S = 1.0
# Largest age of a plan of a policy in the background.
PLAN_AGE_S = 0.3


class _Lane:
    """A sequence of faults, each of which begins after the one before has healed."""

    def __init__(self, planned: Iterator[Planned]) -> None:
        self.planned = planned
        self.injection: Injection | Operation | None = None
        self.resumes_s = 0.0


class Campaign:
    """Run robots, node, faults and judge; `folder` is for files and logs, `progress` gets the current phase."""

    def __init__(self, options: ChaosOptions, folder: Path, progress: Callable[[str], None]) -> None:
        self._options = options
        self._folder = folder
        self._progress = progress
        plan_age_s = PLAN_AGE_S if options.inference == "background" else 0.0
        self.limits = Limits(1.0 / options.rate_hz, options.max_age_s, SLOP_S, plan_age_s)
        self.judge = Judge(options.robots, self.limits)
        self.faults: list[Fault] = []
        # Rows of time, resident memory in 10^6 bytes, file descriptors and threads of the node.
        self.samples: list[tuple[float, ...]] = []
        self.quiet_windows: list[tuple[float, float]] = []
        self.fault_windows: list[tuple[float, float]] = []
        groups, fleet = plans(options.robots, options.seed)
        self._group_lanes, self._fleet_lane = [_Lane(planned) for planned in groups], _Lane(fleet)
        self._lanes = [*self._group_lanes, self._fleet_lane]
        self._nodes = 0
        self._next_sample_s: float = 0.0
        self._checked_s = 0.0
        self._waits_s: dict[int, float] = {}
        self.starved_s = 0.0

        begin_ns = self._begin_ns = time.monotonic_ns()
        described = [
            RobotOptions(
                robot,
                begin_ns,
                options.rate_hz,
                phase=robot / options.robots,
                log=folder / f"robot_{robot}.log",
                niceness=options.niceness,
            )
            for robot in range(options.robots)
        ]
        self._robots = [RobotProcess(each) for each in described]
        # Further publishers on a robot's topics: of the same readings, and of another type.
        shifted = [replace(each, phase=(each.phase + 0.5) % 1.0) for each in described]
        self._doubles = [RobotProcess(each) for each in shifted]
        self._intruders = [RobotProcess(each, intruder_process) for each in described]
        # Publishes the positions of all robots, also while their sensors have faults.
        self._positions = RobotProcess(replace(described[0], robot=options.robots, niceness=0), positions_process)
        # As many as faults of single robots at a time; nobody listens to them.
        self._bystanders = [
            Bystander(RobotProcess(replace(each, robot=options.robots + number)), number / len(groups))
            for number, each in enumerate(described[: len(groups)])
        ]
        self._observer = Observer(options.robots, options.rate_hz, self._begin_ns, NODE_NAME)
        self.operations = Operations(NODE_NAME, options.robots, folder, self._observer, self._start_second)
        self._disk = small_disk(folder / RECORDINGS, options.robots, options.rate_hz)
        self.node = self._start_node()
        for process in (self._positions, *self._robots):
            process.start(NORMAL)

    def close(self) -> None:
        """End every process."""
        for lane in self._lanes:
            if lane.injection is not None:
                lane.injection.close()
        for process in (self._positions, *self._robots, *self._doubles, *self._intruders):
            process.kill()
        for bystander in self._bystanders:
            bystander.end()
        self.node.stop()
        self.operations.operator.close()
        self._observer.close()

    def _start_node(self) -> Child:
        self._nodes += 1
        parameters = self._parameters(policy_file(self._folder, 0))
        parameters["action.safe_position_topic"] = POSITION_TOPIC
        parameters["action.safe_position_joints"] = list(POSITION_JOINTS)
        parameters["record.path"] = str(self._folder / RECORDINGS)
        parameters["realtime.priority"] = self._options.priority
        arguments = node_arguments(NODE_NAME, parameters, self._folder / "parameters.yaml")
        log = self._folder / f"node_{self._nodes}.log"
        return Child("the node", arguments, log, memory_environment(), wrapper=self._disk)

    def _start_second(self, name: str, wrapper: list[str]) -> Child:
        """Start a node for the same robots, whose commands differ from those of the node under test."""
        parameters = self._parameters(policy_file(self._folder, SECOND_POLICY))
        parameters["action.safe_command"] = [-2.0] * COMMAND_SIZE
        arguments = node_arguments(name, parameters, self._folder / f"{name}.yaml")
        wrapper = ["sh", "-c", LOWER_PRIORITY, str(self._options.niceness), *wrapper]
        return Child(name, arguments, self._folder / f"{name}.log", wrapper=wrapper)

    def _parameters(self, policy: Path) -> dict[str, Any]:
        parameters = robot_parameters(self._options.robots, self._options.rate_hz, str(policy))
        del parameters["action.fields"]
        if self.limits.plan_age_s:
            parameters |= {"policy.inference": "background", "chunk.max_age_s": self.limits.plan_age_s}
        return parameters | {
            "policy.format": "torchscript",
            "observations.image.encoding": "rgb8",
            "observations.image.shape": list(IMAGE_SHAPE),
            "observations.touch.shape": [len(TOUCH_JOINTS)],
            "observations.touch.joints": list(TOUCH_JOINTS),
            "synchronisation.slop_s": self.limits.slop_s,
            "synchronisation.max_age_s": self.limits.max_age_s,
            "action.type": "std_msgs/msg/Float64MultiArray",
        }

    def run(self) -> None:
        """Run cycles of three phases: no faults, faults of single robots, faults of the whole fleet."""
        seconds = self._options.seconds
        self._wait_until_driven("starting")
        self._observe(SETTLE_S, "settling")
        # Do not judge the start.
        driven, self.judge = self.judge.driven, Judge(self._options.robots, self.limits)
        self.judge.driven = driven
        cycles = max(1, round(seconds / CYCLE_S))
        end_s = self._observer.now_s() + seconds
        for cycle in range(cycles):
            label = f"cycle {cycle + 1} of {cycles}"
            start_s = self._observer.now_s()
            self._observe_bystanders(max(QUIET_S, QUIET_PART * seconds / cycles), f"{label}: no faults")
            self.quiet_windows.append((start_s, self._observer.now_s()))
            cycle_end_s = end_s - (cycles - 1 - cycle) * seconds / cycles
            start_s = self._observer.now_s()
            until_s = cycle_end_s - FLEET_FAULT_S * FLEET_FAULTS
            self._run_lanes(self._group_lanes, until_s, f"{label}: faults of single robots")
            self.fault_windows.append((start_s, self._observer.now_s()))
            for _ in range(FLEET_FAULTS):
                self._inject(self._fleet_lane, self._observer.now_s())
                self._run_lanes([self._fleet_lane], 0.0, f"{label}: faults of the whole fleet")
        self._observe(1.0, "the end")
        while self.operations.fills_disk:
            self._poll("the disk of the recording fills")

    def kill_node(self) -> dict[str, float | None]:
        """Kill the node, check that commands stop, start it again, then end it with SIGTERM.

        Returns the seconds from the kill to the last command (`last_command_s`) and until every robot has missed its
        deadline (`deadline_s`; None where the middleware reports none), from the start of another node until all robots
        are driven (`restart_s`), and from SIGTERM to the last safe command (`end_s`).
        """
        judge = self.judge = Judge(self._options.robots, self.limits)
        judge.expect_policies(POLICIES, 0.0)
        self._next_sample_s = np.inf
        deadline_s = DEADLINE_PERIODS * self.limits.period_s
        with observed_deadlines(self._options.robots, deadline_s) as (missed_s, spin):
            spin(SETTLE_S)
            missed_s[:] = np.inf
            killed_s = self._observer.now_s()
            self.node.kill()
            gone_s = self._observer.now_s()
            spin(CEASE_S)
        self._poll("the node is killed", running=False)
        last_s = max((times_s[-1] for times_s in judge.sent_s if times_s), default=killed_s)
        if last_s > gone_s:
            raise ToolError("commands were sent after the node was killed; does another node drive these robots?")
        for robot in np.flatnonzero(~np.isfinite(missed_s)).tolist() if reports_deadlines() else ():
            judge.note("undetected", robot, killed_s, fault="node_killed")
        judge.driven[:] = False
        started_s = self._observer.now_s()
        self.node = self._start_node()
        self._wait_until_driven("the node starts again")
        driven_s = self._observer.now_s()
        self._observe(1.0, "the node drives again")
        asked_s = self._observer.now_s()
        self.node.stop()
        self._poll("the node ends", running=False)
        for robot in np.flatnonzero(judge.driven).tolist():
            judge.note("undetected", robot, asked_s, fault="node_ended")
        return {
            "last_command_s": last_s - killed_s,
            "deadline_s": float(missed_s.max() - self._begin_ns / 1e9 - killed_s) if reports_deadlines() else None,
            "restart_s": driven_s - started_s,
            "end_s": max(times_s[-1] for times_s in judge.sent_s) - asked_s,
        }

    def _wait_until_driven(self, phase: str) -> None:
        timeout_s = self._observer.now_s() + START_TIMEOUT_S
        while not self.judge.driven.all():
            if self._observer.now_s() > timeout_s:
                raise self.node.error(f"did not drive all robots within {START_TIMEOUT_S:.0f} s")
            self._poll(phase)

    def _observe(self, seconds: float, phase: str) -> None:
        end_s = self._observer.now_s() + seconds
        while self._observer.now_s() < end_s:
            self._poll(phase)

    def _observe_bystanders(self, seconds: float, phase: str) -> None:
        """Observe while other processes start and end as often as during the faults of single robots."""
        end_s = self._observer.now_s() + seconds
        while (now_s := self._observer.now_s()) < end_s:
            for bystander in self._bystanders:
                bystander.step(now_s)
            self._poll(phase)
        for bystander in self._bystanders:
            bystander.end()

    def _run_lanes(self, lanes: list[_Lane], until_s: float, phase: str) -> None:
        """Inject faults until a time, then wait until all have healed."""
        while True:
            self._poll(phase)
            now_s = self._observer.now_s()
            for lane in lanes:
                self._step(lane, now_s, may_begin=now_s < until_s)
            if now_s >= until_s and all(lane.injection is None for lane in lanes):
                return

    def _step(self, lane: _Lane, now_s: float, may_begin: bool) -> None:
        if lane.injection is None:
            if may_begin and now_s >= lane.resumes_s:
                self._inject(lane, now_s)
            return
        lane.injection.step(now_s)
        fault = lane.injection.fault
        ended_s = fault.ended_s if np.isfinite(fault.ended_s) else fault.asked_s + lane.injection.patience_s
        if not fault.is_healed:
            if now_s <= ended_s + self._options.patience_s:
                return
            self.judge.give_up(fault, now_s, self._reason)
        lane.injection.close()
        lane.resumes_s = now_s + lane.injection.planned.pause_s
        lane.injection = None

    def _reason(self, robot: int) -> str:
        return self._observer.value(f"{NODE_NAME}: {robot_name(robot)}", "reason")

    def _inject(self, lane: _Lane, now_s: float) -> None:
        planned = next(lane.planned)
        planned = planned._replace(duration_s=planned.duration_s + 2 * self._options.max_age_s)
        robots = tuple(range(self._options.robots)) if planned.kind.fleet else (planned.robot,)
        fault = Fault(planned.kind, robots, now_s)
        self.faults.append(fault)
        self.judge.begin(fault)
        if hasattr(self.operations, planned.kind.name):
            lane.injection = Operation(planned, fault, self.operations, self.judge, self.node)
            return
        others = self._intruders if planned.kind.name == "wrong_type" else self._doubles
        robot, other = self._robots[planned.robot], others[planned.robot]
        lane.injection = Injection(planned, fault, robot, other, self._positions, self.limits, self._options.patience_s)

    def _poll(self, phase: str, running: bool = True) -> None:
        """Process what has arrived since the last call; `running` tells whether the node must be running."""
        injections = [lane.injection for lane in self._lanes if lane.injection is not None]
        self._poll_robots(injections)
        for command in self._observer.commands():
            self.judge.command(*command)
        for robots in self._observer.reports():
            self.judge.shown(robots, self._observer.now_s())
        if running:
            self._poll_node(self._observer.now_s())
            self.operations.check_disk(self.judge, self._observer.now_s())
        active = sorted({injection.fault.kind.name for injection in injections})
        self._progress(
            f"{phase}{' (' + ', '.join(active) + ')' if active else ''}; {len(self.faults)} faults, "
            f"{self.judge.violations.total()} violations"
        )
        time.sleep(POLL_S)

    def _poll_robots(self, injections: list[Injection | Operation]) -> None:
        for bystander in self._bystanders:
            bystander.process.poll()
        for message in self._positions.poll():
            if isinstance(message, Slipped):
                self.judge.starve(message.start_s, message.end_s)
        for robot, processes in enumerate(zip(self._robots, self._doubles, self._intruders, strict=True)):
            for message in (message for process in processes for message in process.poll()):
                if isinstance(message, Slipped):
                    self.judge.excuse(robot, message.start_s, message.end_s)
                    continue
                for injection in injections:
                    if injection.planned.robot == robot:
                        injection.on_published(message)

    def _poll_node(self, now_s: float) -> None:
        self.node.check()
        self._check_starvation(now_s)
        if now_s >= self._next_sample_s:
            self._next_sample_s = now_s + SAMPLE_S
            self.samples.append((now_s, *self.node.resources()))

    def _check_starvation(self, now_s: float) -> None:
        """Tell the judge if the node's threads in total, or this process, waited a period for a processor.

        The waits of all threads are added, because the threads also wait for each other.
        """
        since_s = now_s - self._checked_s
        if since_s < STARVATION_CHECK_S:
            return
        waits_s = self.node.thread_wait_s()
        waited_s = sum(wait_s - self._waits_s.get(thread, wait_s) for thread, wait_s in waits_s.items())
        if max(waited_s, since_s - STARVATION_CHECK_S) >= self.limits.period_s:
            self.judge.starve(self._checked_s, now_s)
            self.starved_s += since_s
        self._waits_s, self._checked_s = waits_s, now_s


def run_chaos(options: ChaosOptions, console: Console) -> dict[str, Any]:
    """Run a campaign, inside a ROS session, and return the figures."""
    figures: dict[str, Any] = {"options": asdict(options), "machine": machine()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policy_bench_")))
        bar = stack.enter_context(progress_bar(console))
        task = bar.add_task("chaos", total=options.seconds, doing="")
        begin_s = time.monotonic()

        def progress(phase: str) -> None:
            bar.update(task, doing=phase, completed=min(options.seconds, time.monotonic() - begin_s))

        campaign = stack.enter_context(closing(Campaign(options, folder, progress)))
        campaign.run()
        judge = campaign.judge
        figures["node"] = campaign.kill_node()
        judge.add(campaign.judge)
    quiet, faulty = campaign.quiet_windows, campaign.fault_windows
    times_s = np.concatenate([np.array(sent_s) for sent_s in judge.sent_s])
    # An activation begins another grid; both windows of a cycle are between two.
    phases_s = [
        grid_phase_s(times_s[(start_s <= times_s) & (times_s < end_s)], judge.limits.period_s)
        for start_s, end_s in quiet
    ]
    figures |= {
        "commands": dict(judge.commands),
        "starved_s": campaign.starved_s,
        "largest_age_s": judge.largest_age_s,
        "allowed_age_s": judge.limits.age_s,
        "faults": fault_figures(campaign.faults),
        "full_disks": campaign.operations.full_disks,
        **judge_timing(judge, judge_ticks(judge, quiet, phases_s), judge_ticks(judge, faulty, phases_s)),
        "resources": resource_figures(campaign.samples, options.seconds),
    }
    if figures["resources"]["is_judged"]:
        judge_resources(judge, figures["resources"], options.seconds)
    return figures | violation_figures(judge, not options.busy) | {"schedule": schedule_of(campaign.faults)}
