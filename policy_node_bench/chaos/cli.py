# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench chaos`: faults of every kind, several at a time, and a judge who looks only at the commands.

The node runs as users run it, in a process of its own and over real DDS, and so does every robot. The policy copies
robot and time of its readings into the command, so that each command tells what it was computed from.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.options import number
from policy_node.cli.process_environment import profile_variable
from policy_node.report.figures import SubParsers, machine, write_figures
from policy_node.ros.domain import keep_to_itself
from policy_node_bench.chaos.faults import KINDS, Fault, Planned, plans
from policy_node_bench.chaos.judge import Judge, Limits, grid_phase_s, judge_ticks
from policy_node_bench.chaos.report import (
    fault_figures,
    judge_resources,
    judge_timing,
    markdown,
    resource_figures,
    schedule_of,
    table,
    violation_figures,
)

NODE_NAME = "policy_chaos_node"
# Importing PyTorch on a busy machine takes its time.
START_TIMEOUT_S = 120.0
SETTLE_S = 3.0
CYCLE_S = 60.0
# The part of a cycle without faults, and the least time of it.
QUIET_PART = 0.2
QUIET_S = 4.0
# synchronisation.slop_s: a robot's readings are taken at the same time.
SLOP_S = 0.03
FLEET_KINDS = [kind for kind in KINDS if kind.fleet]
# For each fault that concerns all robots, at the end of a cycle.
FLEET_FAULT_S = 3.0
POLL_S = 0.01
SAMPLE_S = 1.0
LOOK_S = 0.1
# The deadline that robots ask for, in periods; the node offers as much by default.
DEADLINE_PERIODS = 3
CEASE_S = 1.0
# How long a fault that does not heal keeps the next one waiting.
PATIENCE_S = 10.0
TRANSPORTS = ("udp", "shm")
# In the discovery range LOCALHOST the middleware adds shared memory to whatever is asked for: so the range is that of
# the profile, which leaves the loopback interface no more than LOCALHOST does.
UDP_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com">
  <profiles>
    <transport_descriptors>
      <transport_descriptor>
        <transport_id>loopback</transport_id>
        <type>UDPv4</type>
        <sendBufferSize>1048576</sendBufferSize>
        <receiveBufferSize>1048576</receiveBufferSize>
        <interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>
        <maxInitialPeersRange>40</maxInitialPeersRange>
      </transport_descriptor>
    </transport_descriptors>
    <participant profile_name="loopback" is_default_profile="true">
      <rtps>
        <userTransports><transport_id>loopback</transport_id></userTransports>
        <useBuiltinTransports>false</useBuiltinTransports>
        <builtin>
          <initialPeersList><locator><udpv4><address>127.0.0.1</address></udpv4></locator></initialPeersList>
          <discovery_config>
            <leaseAnnouncement><nanosec>500000000</nanosec></leaseAnnouncement>
            <initialAnnouncements><count>20</count><period><nanosec>100000000</nanosec></period></initialAnnouncements>
          </discovery_config>
        </builtin>
      </rtps>
    </participant>
  </profiles>
</dds>
"""
BUSY_PATIENCE_S = 60.0


@dataclass(frozen=True)
class ChaosOptions:
    """The options of `policy_bench chaos`.

    Attributes
    ----------
    robots
        How many.
    seconds
        How long faults go on, with the times without faults between them.
    seed
        Of the schedule of faults.
    rate_hz
        Of control and sensors.
    max_age_s
        Parameter of the node.
    transport
        Between node and robots: `udp`, or `shm` where they are on one machine.
    priority
        Parameter `realtime.priority` of the node.
    patience_s
        How long to wait until a fault has healed.
    judges_timing
        Whether times count as violations, or only what no busy machine can cause.
    """

    robots: int
    seconds: float
    seed: int
    rate_hz: float
    max_age_s: float
    transport: str
    priority: int
    patience_s: float
    judges_timing: bool


class Sample(NamedTuple):
    """What the node's process holds at a time: memory in 10^6 bytes, file descriptors, threads."""

    time_s: float
    rss_mb: float
    descriptors: int
    threads: int


class _Lane:
    """Faults one after the other, each after the one before has healed."""

    def __init__(self, planned: Iterator[Planned]) -> None:
        self.planned = planned
        self.injection: Any = None
        self.resumes_s = 0.0


class Campaign:
    """One run: robots, node, faults, judge.

    Parameters
    ----------
    options
        Of the run.
    folder
        For files and logs.
    progress
        Called often, with what is going on.
    """

    def __init__(self, options: ChaosOptions, folder: Path, progress: Callable[[str], None]) -> None:
        from policy_node_bench.chaos import fleet as chaos_fleet
        from policy_node_bench.chaos.observer import Observer
        from policy_node_bench.chaos.policy import node_parameters, save_policy
        from policy_node_bench.chaos.robot import (
            Behaviour,
            RobotOptions,
            intruder_process,
            robot_name,
        )

        self._options = options
        self._folder = folder
        self._progress = progress
        self._fleet = chaos_fleet
        self.limits = Limits(1.0 / options.rate_hz, options.max_age_s, SLOP_S)
        self.judge = Judge(options.robots, self.limits)
        self.faults: list[Fault] = []
        self.samples: list[Sample] = []
        self.quiet_windows: list[tuple[float, float]] = []
        self.fault_windows: list[tuple[float, float]] = []
        groups, fleet = plans(options.robots, options.seed)
        self._lanes = [_Lane(planned) for planned in groups]
        self._fleet_lane = _Lane(fleet)
        self._nodes = 0
        self._next_sample_s: float = 0.0
        self._looked_s = 0.0
        self._waits_s: dict[int, float] = {}
        self.starved_s = 0.0

        policy = folder / "tell_tale.pt"
        save_policy(policy)
        names = [robot_name(robot) for robot in range(options.robots)]
        parameters = node_parameters(
            policy, names, options.rate_hz, options.max_age_s, SLOP_S, priority=options.priority
        )
        (folder / "parameters.yaml").write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        begin_ns = self._begin_ns = time.monotonic_ns()
        described = [
            RobotOptions(
                robot, begin_ns, options.rate_hz, robot / options.robots, Behaviour(), folder / f"robot_{robot}.log"
            )
            for robot in range(options.robots)
        ]
        self._robots = [chaos_fleet.RobotProcess(each) for each in described]
        # Who publishes in a robot's name: what it publishes, or something else.
        shifted = [replace(each, phase=(each.phase + 0.5) % 1.0) for each in described]
        self._doubles = [chaos_fleet.RobotProcess(each) for each in shifted]
        self._intruders = [chaos_fleet.RobotProcess(each, intruder_process) for each in described]
        self._observer = Observer(options.robots, options.rate_hz, begin_ns, NODE_NAME)
        self.node = self._start_node()
        for robot in self._robots:
            robot.start(Behaviour())

    def close(self) -> None:
        """End every process."""
        for process in (*self._robots, *self._doubles, *self._intruders):
            process.kill()
        self.node.stop()
        self._observer.close()

    def _start_node(self) -> Child:
        self._nodes += 1
        arguments = ["-m", "policy_node.ros.node", "--ros-args", "-r", f"__node:={NODE_NAME}"]
        arguments += ["--params-file", str(self._folder / "parameters.yaml")]
        return Child("the node", arguments, self._folder / f"node_{self._nodes}.log")

    def run(self) -> None:
        """Go through cycles: a while without faults, then faults of single robots, then those of the whole fleet."""
        seconds = self._options.seconds
        self._wait(lambda: bool(self.judge.driven.all()), START_TIMEOUT_S, "starting")
        self._watch(SETTLE_S, "settling")
        # What happened until here is start-up.
        driven, self.judge = self.judge.driven, Judge(self._options.robots, self.limits)
        self.judge.driven = driven
        cycles = max(1, round(seconds / CYCLE_S))
        end_s = self._observer.now_s() + seconds
        for cycle in range(cycles):
            label = f"cycle {cycle + 1} of {cycles}"
            quiet_s = max(QUIET_S, QUIET_PART * seconds / cycles)
            start_s = self._observer.now_s()
            self._watch(quiet_s, f"{label}: no faults")
            self.quiet_windows.append((start_s, self._observer.now_s()))
            cycle_end_s = end_s - (cycles - 1 - cycle) * seconds / cycles
            start_s = self._observer.now_s()
            self._run_lanes(
                self._lanes, cycle_end_s - FLEET_FAULT_S * len(FLEET_KINDS), f"{label}: faults of single robots"
            )
            self.fault_windows.append((start_s, self._observer.now_s()))
            for _ in FLEET_KINDS:
                self._inject(self._fleet_lane, self._observer.now_s())
                self._run_lanes([self._fleet_lane], 0.0, f"{label}: faults of the whole fleet")
        self._watch(1.0, "the end")

    def kill_node(self) -> dict[str, float]:
        """Kill the node, see that commands cease, start it again, then end it in order.

        Returns
        -------
        dict
            Seconds from the kill to the last command and until every robot has missed its deadline, from the start of
            another node until all robots are driven, and from the request to end to the safe command of all.
        """
        from policy_node_bench.chaos.observer import Watches

        judge = self.judge = Judge(self._options.robots, self.limits)
        self._next_sample_s = np.inf
        with closing(Watches(self._options.robots, DEADLINE_PERIODS * self.limits.period_s, self._begin_ns)) as watches:
            watches.watch(SETTLE_S)
            watches.forget()
            killed_s = self._observer.now_s()
            self.node.kill()
            gone_s = self._observer.now_s()
            watches.watch(CEASE_S)
        self._poll("the node is killed", lives=False)
        last_s = max(times_s[-1] for times_s in judge.sent_s if times_s) if any(judge.sent_s) else killed_s
        if last_s > gone_s:
            raise ToolError("commands went on after the node was killed; does another one drive these robots?")
        for robot in np.flatnonzero(~np.isfinite(watches.missed_s)).tolist():
            judge.note("undetected", robot, killed_s, fault="node_killed")
        judge.driven[:] = False
        started_s = self._observer.now_s()
        self.node = self._start_node()
        self._wait(lambda: bool(judge.driven.all()), START_TIMEOUT_S, "the node starts again")
        driven_s = self._observer.now_s()
        self._watch(1.0, "the node drives again")
        asked_s = self._observer.now_s()
        self.node.stop()
        self._poll("the node ends", lives=False)
        for robot in np.flatnonzero(judge.driven).tolist():
            judge.note("undetected", robot, asked_s, fault="node_ended")
        safe_s = max(times_s[-1] for times_s in judge.sent_s)
        return {
            "last_command_s": last_s - killed_s,
            "deadline_s": float(watches.missed_s.max() - killed_s),
            "restart_s": driven_s - started_s,
            "end_s": safe_s - asked_s,
        }

    def _wait(self, condition: Callable[[], bool], timeout_s: float, doing: str) -> None:
        deadline_s = self._observer.now_s() + timeout_s
        while not condition():
            if self._observer.now_s() > deadline_s:
                raise self.node.error(f"did not drive all robots within {timeout_s:.0f} s")
            self._poll(doing)

    def _watch(self, seconds: float, doing: str, lives: bool = True) -> None:
        end_s = self._observer.now_s() + seconds
        while self._observer.now_s() < end_s:
            self._poll(doing, lives)

    def _run_lanes(self, lanes: list[_Lane], until_s: float, doing: str) -> None:
        """Cause faults until a time, then wait until all have healed."""
        while True:
            self._poll(doing)
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
        ended_s = fault.ended_s if np.isfinite(fault.ended_s) else fault.asked_s + self._options.patience_s
        if fault.is_healed:
            pass
        elif now_s > ended_s + self._options.patience_s:
            self.judge.give_up(fault, now_s)
        else:
            return
        lane.resumes_s = now_s + lane.injection.planned.pause_s
        lane.injection = None

    def _inject(self, lane: _Lane, now_s: float) -> None:
        planned = next(lane.planned)
        planned = planned._replace(duration_s=planned.duration_s + 2 * self._options.max_age_s)
        robots = tuple(range(self._options.robots)) if planned.kind.fleet else (planned.robot,)
        fault = Fault(planned.kind, robots, now_s)
        self.faults.append(fault)
        self.judge.begin(fault)
        others = self._intruders if planned.kind.name == "wrong_type" else self._doubles
        lane.injection = self._fleet.Injection(
            planned, fault, self._robots[planned.robot], others[planned.robot], self.limits.period_s, now_s
        )

    def _poll(self, doing: str, lives: bool = True) -> None:
        """Take in what has happened."""
        from policy_node_bench.chaos.robot import Slipped

        injections = [lane.injection for lane in (*self._lanes, self._fleet_lane) if lane.injection is not None]
        for robot, processes in enumerate(zip(self._robots, self._doubles, self._intruders, strict=True)):
            for process in processes:
                for said in process.poll():
                    if isinstance(said, Slipped):
                        self.judge.excuse(robot, said.start_s, said.end_s)
                        continue
                    for injection in injections:
                        if injection.planned.robot == robot:
                            injection.on_published(said)
        for command in self._observer.commands():
            self.judge.command(*command)
        for shown in self._observer.shown():
            self.judge.shown(shown.robots, shown.time_s)
        now_s = self._observer.now_s()
        if lives:
            self.node.check()
            self._look_for_starvation(now_s)
            if now_s >= self._next_sample_s:
                self._next_sample_s = now_s + SAMPLE_S
                self.samples.append(Sample(now_s, *self.node.resources()))
        active = sorted({injection.fault.kind.name for injection in injections})
        self._progress(
            f"{doing}{' (' + ', '.join(active) + ')' if active else ''}; {len(self.faults)} faults, "
            f"{self.judge.violations.total()} violations"
        )
        time.sleep(POLL_S)

    def _look_for_starvation(self, now_s: float) -> None:
        """Tell the judge when the node's threads together waited for a processor for a period, or this tool did.

        They wait for each other as well, so that many short waits make a long one.
        """
        since_s = now_s - self._looked_s
        if since_s < LOOK_S:
            return
        waits_s = self.node.thread_wait_s()
        waited_s = sum(wait_s - self._waits_s.get(thread, wait_s) for thread, wait_s in waits_s.items())
        if max(waited_s, since_s - LOOK_S) >= self.limits.period_s:
            self.judge.starve(self._looked_s, now_s)
            self.starved_s += since_s
        self._waits_s, self._looked_s = waits_s, now_s


def run_chaos(options: ChaosOptions, console: Console) -> dict[str, Any]:
    """Run everything and return the figures, as they stand in the JSON file.

    Raises
    ------
    ToolError
        When a process fails.
    """
    figures: dict[str, Any] = {"options": asdict(options), "machine": machine()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policy_bench_")))
        bar = stack.enter_context(
            Progress(
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[doing]}"),
                console=console,
                transient=True,
            )
        )
        task = bar.add_task("chaos", total=options.seconds, doing="")
        begin_s = time.monotonic()

        def progress(doing: str) -> None:
            bar.update(task, doing=doing, completed=min(options.seconds, time.monotonic() - begin_s))

        campaign = stack.enter_context(closing(Campaign(options, folder, progress)))
        campaign.run()
        judge = campaign.judge
        figures["node"] = campaign.kill_node()
        judge.add(campaign.judge)
    quiet, faulty = campaign.quiet_windows, campaign.fault_windows
    times_s = np.concatenate([np.array(sent_s) for sent_s in judge.sent_s])
    quiet_s = [times_s[(start_s <= times_s) & (times_s < end_s)] for start_s, end_s in quiet]
    phase_s = grid_phase_s(np.concatenate(quiet_s), judge.limits.period_s)
    figures |= {
        "commands": dict(judge.commands),
        "starved_s": campaign.starved_s,
        "largest_age_s": judge.largest_age_s,
        "allowed_age_s": judge.limits.age_s,
        "faults": fault_figures(campaign.faults),
        **judge_timing(judge, judge_ticks(judge, quiet, phase_s), judge_ticks(judge, faulty, phase_s)),
        "resources": resource_figures(campaign.samples, options.seconds),
    }
    if figures["resources"]["is_judged"]:
        judge_resources(judge, figures["resources"], options.seconds)
    return figures | violation_figures(judge, options.judges_timing) | {"schedule": schedule_of(campaign.faults)}


def add_parser(subparsers: SubParsers) -> None:
    """Add the command line of `policy_bench chaos`."""
    chaos = subparsers.add_parser(
        "chaos",
        help="faults of every kind, several at a time: does each end in a safe command, and heal?",
        description="Runs robots and the node in processes of their own, makes publishers, data, clocks and policy "
        "fail, and judges the node by its commands. The exit status is 1 when there are violations.",
    )
    chaos.add_argument("--robots", type=number(int, 2), default=16, help="number of robots (default 16)")
    chaos.add_argument(
        "--seconds", type=number(float, 20), default=180.0, help="length of the run after its start (default 180)"
    )
    chaos.add_argument("--seed", type=number(int, 0), default=0, help="of the schedule of faults (default 0)")
    chaos.add_argument("--rate", type=number(float, 1), default=20.0, metavar="HZ", help="control rate (default 20)")
    chaos.add_argument(
        "--max-age", type=number(float, 0.1), default=0.2, metavar="S", help="synchronisation.max_age_s (default 0.2)"
    )
    chaos.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="udp",
        help="udp: as between machines (default); shm: shared memory, in which a process that dies can hold up "
        "the others of its machine for seconds",
    )
    chaos.add_argument(
        "--priority",
        type=number(int, 0, 99),
        default=0,
        help="realtime.priority of the node (default 0): robots that start take its time, as they share its computer",
    )
    chaos.add_argument(
        "--busy",
        action="store_true",
        help="for a machine that does other things as well: times are reported, but are no violations",
    )
    chaos.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (default: nowhere)")
    chaos.add_argument("--markdown", type=Path, metavar="FILE", help="write a section for a document there")
    chaos.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run `policy_bench chaos`.

    Raises
    ------
    ToolError
        When a process fails.
    """
    options = ChaosOptions(
        robots=given.robots,
        seconds=given.seconds,
        seed=given.seed,
        rate_hz=given.rate,
        max_age_s=given.max_age,
        transport=given.transport,
        priority=given.priority,
        patience_s=BUSY_PATIENCE_S if given.busy else PATIENCE_S,
        judges_timing=not given.busy,
    )
    console = Console()
    keep_to_itself()
    with ExitStack() as stack:
        if options.transport == "udp":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policy_bench_")))
            (folder / "udp.xml").write_text(UDP_PROFILE)
            os.environ[profile_variable()] = str(folder / "udp.xml")
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"
        from policy_node.ros.process import open_ros

        stack.enter_context(open_ros())
        figures = run_chaos(options, console)
    console.print(table(figures))
    if given.json:
        write_figures(given.json, figures)
        console.print(f"figures: {given.json}")
    if given.markdown:
        given.markdown.write_text(markdown(figures))
        console.print(f"section: {given.markdown}")
    return 1 if figures["violations"] else 0
