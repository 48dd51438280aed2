# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: configure loads and warms up, activate starts the tick, deactivate makes every robot safe."""

from __future__ import annotations

import argparse
import gc
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import cv2
import torch
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter
from rclpy.utilities import remove_ros_args

from policy_node.config.files import check_file
from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import MAX_BYTES
from policy_node.config.schema import (
    LIMITS,
    Configuration,
    ConfigurationError,
    check_same_sensors,
    parse_configuration,
    topic_of,
)
from policy_node.control.memory import MemoryMonitor
from policy_node.control.realtime import check_realtime, frozen_garbage, switch_interval
from policy_node.engines.failures import is_device_failure
from policy_node.policies.contract import warnings_to
from policy_node.recording.recorder import Recording, RecordingPlan, plan_recording
from policy_node.ros.bond import bond, check_bond
from policy_node.ros.control_loop import ControlLoop
from policy_node.ros.deployment import Deployment, configured_encoder, deploy, slowness
from policy_node.ros.diagnostics import LifecycleDiagnostics, Reporter
from policy_node.ros.loading import Loading
from policy_node.ros.middleware import lacking, middleware
from policy_node.ros.ownership import Claims
from policy_node.ros.parameter_services import ParameterServices
from policy_node.ros.parameters import (
    ANYTIME_PARAMETERS,
    SWAP_PARAMETERS,
    check_anytime,
    declare_parameters,
    is_limit,
    read_parameters,
    wrong_type,
)
from policy_node.ros.process import (
    EventThreadMonitor,
    Interrupted,
    destroy_last_node,
    end_process_if_destruction_hangs,
    exit_without,
    ros_process,
    run_interruptibly,
)
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.rclpy_internals import check_executor
from policy_node.ros.services import MOST_NAMED, Operation
from policy_node.ros.subscriptions import SensorSubscriptions, check_topics

# Longest delay of a signal. Each wake-up takes time from the tick thread, more so with a timeout that varies.
SPIN_TIMEOUT_S = 0.25
# Time in which requests that came during the first configure are served, before the node activates by itself.
REQUESTS_S = 0.05
REMEDY = (
    "correct the file and start the node again, or set the parameters (ros2 param set, ros2 param load) and configure "
    "it again"
)
EXITS = "exit_on_failure is true: the process ends with status 1."
SAFE = "every robot got the safe command"
EVENT_THREAD_STOPPED = (
    "Fast DDS stands still: no more messages reach this process. The node makes every robot safe and ends with status "
    "1; start it again, as respawn:=true of the launch files does"
)
MEMORY_EXHAUSTED = (
    "the memory is exhausted: this process gets no more. The node made every robot safe and ends with status 1; free "
    "memory or raise its limit (ulimit -v), then start it again, as respawn:=true of the launch files does"
)


class PolicyNode(LifecycleNode):
    """Drives a fleet with one policy; all resources are made in configure and freed in cleanup.

    Parameters
    ----------
    stopping
        Set when the process is to end, which ends a configure that waits for a file or computes.
    **node_arguments
        Passed to `rclpy.node.Node`, such as `namespace` or `parameter_overrides`.
    """

    def __init__(self, stopping: threading.Event | None = None, **node_arguments: Any) -> None:
        super().__init__(
            "policy_node",
            allow_undeclared_parameters=True,
            automatically_declare_parameters_from_overrides=True,
            start_parameter_services=False,
            **node_arguments,
        )
        self._stopping = stopping or threading.Event()
        self._deployment: Deployment | None = None
        self._sensors: SensorSubscriptions | None = None
        self._commands: CommandPublishers | None = None
        self._loop: ControlLoop | None = None
        self._claims: Claims | None = None
        self._reporter: Reporter | None = None
        self._plan: RecordingPlan | None = None
        self._loading: Loading | None = None
        self._loaded: Loading | None = None
        # Frees what configure and activate made, in the reverse order.
        self._configured = ExitStack()
        self._activated = ExitStack()
        self._diagnostics = LifecycleDiagnostics(self)
        self._operation = Operation(self)
        self._loop_failed = self.create_guard_condition(self._leave_failed_loop)
        declare_parameters(self)
        self._set_log_level(self.get_parameter("log_level").value)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        ParameterServices(self, self._set)

    @property
    def is_configured(self) -> bool:
        """Whether the node offers command topics."""
        return self._commands is not None

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates by itself; a wrong type counts as yes, configure reports it."""
        return self.get_parameter("autostart").value is not False

    @property
    def exit_on_failure(self) -> bool:
        """Whether the process ends when something failed; a wrong type counts as no, configure reports it."""
        return self.get_parameter("exit_on_failure").value is True

    @property
    def has_failed(self) -> bool:
        """Whether the node is unconfigured because something failed."""
        return bool(self._diagnostics.failure) and not self.is_configured

    def declare_parameters(self, namespace: str, parameters: Sequence[Any], ignore_override: bool = False) -> Any:
        """Declare parameters as `rclpy.node.Node` does, also those that a file leaves empty, such as `robots: []`."""
        empty = ParameterDescriptor(dynamic_typing=True)
        parameters = [(entry[0], None, empty) if entry[1:2] == (None,) else entry for entry in parameters]
        return super().declare_parameters(namespace, parameters, ignore_override)

    def stop(self) -> None:
        """Make every robot safe and free everything, in any state of the node."""
        try:
            self._deactivate()
        finally:
            self._cleanup()

    @property
    def loading_threads(self) -> list[threading.Thread]:
        """Threads that load a policy, see `exit_without`."""
        return [self._loading.thread] if self._loading is not None else []

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read and check the configuration, load the policy, open the topics and warm up."""
        started = time.perf_counter()
        self._diagnostics.note("configuring")
        try:
            self._configure()
        except Interrupted:
            self._cleanup()
            self.get_logger().warning("configure was interrupted by a signal")
        except ConfigurationError as error:
            self._fail(f"configure failed:\n{error}")
        except Exception as error:  # the process stays alive: the node can be configured again
            # The process cannot use a device again that failed, but one whose memory ran out.
            lost = "; if this happens again, start the node again" if is_device_failure(error) else ""
            self._fail(f"configure failed: {type(error).__name__}: {error}{lost}")
        else:
            assert self._deployment is not None
            configuration, policy = self._deployment.configuration, self._deployment.policy
            robots = len(configuration.robots)
            self.get_logger().info(
                f"configured in {time.perf_counter() - started:.1f} s: {policy.spec.algorithm} policy "
                f"{configuration.policy.path} on {policy.device}, "
                f"{robots} {'robot' if robots == 1 else 'robots'} at {configuration.control_rate_hz:g} Hz; "
                f"normalisation: {policy.normalisation}"
            )
            self._diagnostics.note("inactive")
            return TransitionCallbackReturn.SUCCESS
        return TransitionCallbackReturn.FAILURE

    def _fail(self, text: str) -> None:
        self._cleanup()
        self._diagnostics.note("unconfigured", text)
        end = EXITS if self.exit_on_failure else f"The node stays alive: {REMEDY}."
        self.get_logger().error(f"{text}\n{end}")

    def _configure(self) -> None:
        check_executor(self)
        # Values may have been set, or keys named, since the node was created.
        declare_parameters(self)
        # Files may be slow, and policies compute for long: a signal ends the wait for them.
        parameters, described = run_interruptibly(lambda: read_parameters(self), self._stopping)
        with described.named_in_errors():
            self._configure_from(parameters)

    def _configure_from(self, parameters: dict[str, Any]) -> None:
        """Configure with parameters by dotted name."""
        configuration = parse_configuration(parameters)
        check_topics(self, configuration)
        check_realtime(configuration.realtime)
        check_bond(configuration.bond_period_s)
        if lacks := lacking(middleware()):
            self.get_logger().warning(lacks)
        name = self.get_fully_qualified_name()
        self._plan = run_interruptibly(
            lambda: plan_recording(name, self.resolve_topic_name, configuration, parameters), self._stopping
        )
        # The claims of others arrive while the policy is being loaded.
        self._claims = Claims(
            self,
            {
                robot: self.resolve_topic_name(topic_of(robot, configuration.action.topic))
                for robot in configuration.robots
            },
            configuration.claims_topic,
        )
        self._configured.callback(self._claims.destroy)
        deployment = run_interruptibly(lambda: deploy(configuration), self._stopping)
        encoder = configured_encoder(configuration, deployment.pipeline.components)
        if deployment.policy.spec.mask:
            self.get_logger().warning(
                "policy.path: this policy was trained with masks of allowed choices, which no topic gives here; it may "
                "take choices that were forbidden in training"
            )
        self.get_logger().info(f"{deployment.engine}")
        if text := slowness(deployment):
            self.get_logger().warning(text)
        self._deployment = deployment
        self._commands = CommandPublishers(self, configuration, encoder, self._stopping)
        self._configured.callback(self._commands.destroy)
        self._sensors = SensorSubscriptions(self, configuration, deployment.decoders, self._stopping)
        self._configured.callback(self._sensors.destroy)
        if configuration.realtime.freeze_gc:
            # Collect now, because it takes seconds on a loaded machine: activation freezes the remaining objects.
            gc.collect()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the tick."""
        return self._transition("activate", self._activate)

    def _transition(self, name: str, act: Callable[[], None]) -> TransitionCallbackReturn:
        """Run a transition; log an exception, which rclpy would swallow, and go to `on_error`."""
        try:
            act()
        except Exception as error:
            failure = f"{name} failed: {type(error).__name__}: {error}"
            self._diagnostics.note("unconfigured", self._diagnostics.failure or failure)
            self.get_logger().error(f"{failure}; configure the node again")
            return TransitionCallbackReturn.ERROR
        self._diagnostics.note(_STATE_AFTER[name], None)
        return TransitionCallbackReturn.SUCCESS

    def _activate(self) -> None:
        assert self._deployment and self._sensors and self._commands and self._claims
        configuration, pipeline, claims = self._deployment.configuration, self._deployment.pipeline, self._claims
        pipeline.reset()
        # Freed last, because destroying its publishers may hang: the recording must be complete by then.
        self._activated.callback(self._destroy_reporter)
        recording = None
        if self._plan is not None:
            recording = Recording(self._plan, self._deployment.policy.spec.sha256, self.get_logger())
            self._activated.callback(recording.end)
            self._activated.callback(setattr, self._commands, "on_sent", None)
            self._commands.on_sent = recording.note_commands
            recording.start(self._stopping.is_set)
        self._loop = ControlLoop(
            configuration,
            pipeline,
            self._sensors,
            self._commands,
            self.get_clock(),
            simulated=self.get_parameter("use_sim_time").value,
            logger=self.get_logger(),
            on_failure=self._on_loop_failure,
            may_command=lambda: claims.holds,
            recording=recording,
        )
        self._reporter = Reporter(
            self,
            configuration,
            self._loop,
            self._sensors,
            self._description(),
            self._diagnostics.publisher,
            recording,
        )
        self._activated.callback(self._reporter.report_end)
        self._operation.attach(self._loop, configuration.robots)
        self._activated.callback(claims.end)
        claims.begin(self._on_claims)
        self._activated.enter_context(switch_interval(configuration.realtime.switch_interval_s))
        if configuration.realtime.freeze_gc:
            self._activated.enter_context(frozen_garbage())
        self._loop.start()
        self._activated.enter_context(bond(self, configuration.bond_period_s))
        robots = configuration.robots
        others = f" and {len(robots) - MOST_NAMED} more" if len(robots) > MOST_NAMED else ""
        self.get_logger().info(f"active: driving {', '.join(robots[:MOST_NAMED])}{others}")

    def _description(self) -> dict[str, str]:
        """Return the values about the policy in diagnostics."""
        assert self._deployment is not None and self._claims is not None
        policy = self._deployment.policy
        return {
            "policy": self._deployment.configuration.policy.path,
            "policy_sha256": policy.spec.sha256,
            "algorithm": policy.spec.algorithm,
            "device": str(policy.device),
            **self._deployment.engine.description,
            "rmw": middleware(),
            **{f"{robot}_also_commanded_by": others for robot, others in self._claims.conflicts.items()},
        }

    def _on_claims(self, owners: Mapping[int, str]) -> None:
        """Yield robots to the nodes that command them already."""
        if self._loop is not None and self._reporter is not None:
            self._loop.yield_robots(owners)
            self._reporter.description = self._description()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Send every robot the safe command and stop the tick."""
        return self._transition("deactivate", self._deactivate)

    def _deactivate(self) -> None:
        loop, self._loop = self._loop, None
        self._operation.detach()
        try:
            if loop is not None:
                if not loop.stop():
                    raise RuntimeError("the current tick hangs; it can send no more commands")
                if loop.failure is not None:
                    raise RuntimeError("the control loop has ended") from loop.failure
                self.get_logger().info(f"inactive: {self._safety()}")
        finally:
            self._activated.close()

    def _destroy_reporter(self) -> None:
        reporter, self._reporter = self._reporter, None
        if reporter is not None:
            with end_process_if_destruction_hangs():
                reporter.destroy()

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the topics and free the policy."""
        return self._transition("cleanup", self._cleanup)

    def _cleanup(self) -> None:
        self._sensors = self._commands = self._claims = self._deployment = self._plan = None
        with end_process_if_destruction_hangs():
            self._configured.close()
        # The exception of a failed loop and the caches of PyTorch may keep much memory.
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make every robot safe and free everything."""
        return self._transition("shutdown", self.stop)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after an exception in a transition, with every robot safe."""
        self._transition("stopping after an error", self.stop)
        return TransitionCallbackReturn.SUCCESS

    def _on_loop_failure(self, error: Exception) -> None:
        self._diagnostics.failure = f"the control loop ended: {type(error).__name__}: {error}"
        self.get_logger().fatal(
            f"{self._diagnostics.failure}; {self._safety()}. Configure and activate the node to go on."
        )
        self._loop_failed.trigger()

    def _leave_failed_loop(self) -> None:
        """Go to unconfigured through the lifecycle's error handling; called by the executor."""
        if self._loop is not None and self._loop.failure is not None:
            self.trigger_deactivate()

    def _safety(self) -> str:
        """Return which robots got a safe command when they were stopped."""
        without = self._commands.without_safe_command if self._commands is not None else ()
        yielded = self._claims.yielded_robots if self._claims is not None else ()
        unsafe = [robot for robot in without if robot not in yielded]
        safe = f"no safe command is known for {', '.join(unsafe)}; every other robot got one" if unsafe else SAFE
        return safe + (f", but for {', '.join(yielded)}, left to another node" if yielded else "")

    async def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Set parameters, all or none; load a new policy first, while the executor serves other callbacks."""
        names = {parameter.name for parameter in parameters}
        if self._deployment is None or not names or not names <= set(SWAP_PARAMETERS):
            return self.set_parameters_atomically(parameters)
        loop = self._loop
        missed = loop.statistics.missed if loop is not None else 0
        assert self.executor is not None  # a service is being answered
        try:
            loading = self._loading = Loading(lambda: self._parse(parameters), self._deployment.pipeline, self.executor)
        except RuntimeError as error:  # no memory for a thread
            return SetParametersResult(successful=False, reason=f"the policy cannot be loaded: {error}; free memory")
        await loading.ended
        # Nothing else runs in this thread from here on: the callback of the parameters uses it.
        self._loaded = loading
        try:
            result = self.set_parameters_atomically(parameters)
        finally:
            self._loading = self._loaded = None
        if result.successful:
            driving = ""
            if loop is not None and loop is self._loop:
                count = loop.statistics.missed - missed
                driving = f", swapped between two ticks; {count or 'no'} tick{'s were' if count > 1 else ' was'} missed"
            path, sha256 = self._deployment.configuration.policy.path, self._description()["policy_sha256"]
            self.get_logger().info(
                f"the policy is now {path}, SHA-256 {sha256}: loaded in {loading.duration_s:.2f} s{driving}"
            )
        return result

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        names = ", ".join(parameter.name for parameter in parameters)
        if parameters and all(parameter.name in ANYTIME_PARAMETERS for parameter in parameters):
            return self._set_anytime(parameters)
        if self._loaded is not None:
            try:
                self._swap(self._loaded, parameters)
            except ConfigurationError as error:
                reason = str(error)
            except Exception as error:  # the current policy goes on
                reason = f"{names}: {type(error).__name__}: {error}"
            else:
                return SetParametersResult(successful=True)
            return SetParametersResult(successful=False, reason=f"{reason}\nThe present policy goes on.")
        try:
            reason = wrong_type(self, parameters)
            if not reason and self._deployment is not None:
                reason = self._change_limits(parameters)
        except ConfigurationError as error:
            reason = str(error)
        return SetParametersResult(successful=not reason, reason=reason)

    def _change_limits(self, parameters: Sequence[Parameter]) -> str:
        """Use other limits from the next tick on; return why the parameters cannot be set.

        Raises
        ------
        ConfigurationError
            When the parameters do not fit all others; nothing is changed then.
        """
        names = ", ".join(parameter.name for parameter in parameters)
        # Also use_sim_time: the tick keeps the clock that it was started with.
        if not all(is_limit(parameter.name) for parameter in parameters):
            return (
                f"{names}: parameters are read at configure; deactivate and clean up the node, set them, "
                f"then configure it again. Only limits ({', '.join(LIMITS)}, the max_age_s of a topic) and "
                f"{', '.join(ANYTIME_PARAMETERS)} may be set meanwhile, and {', '.join(SWAP_PARAMETERS)} through the "
                "services"
            )
        self._use_limits(self._parse(parameters))
        values = (each.value if isinstance(each.value, float) else list(each.value or ()) for each in parameters)
        changes = ", ".join(f"{each.name} {value}" for each, value in zip(parameters, values, strict=True))
        self.get_logger().info(f"limits from the next tick on: {changes}")
        return ""

    def _parse(self, changes: Sequence[Parameter]) -> Configuration:
        """Return the configuration with parameters that are about to be set; raises ConfigurationError."""
        values, described = read_parameters(self, changes)
        with described.named_in_errors():
            return parse_configuration(values)

    def _use_limits(self, configuration: Configuration) -> None:
        """Use the limits of a configuration from the next tick on; raises ConfigurationError, and changes nothing."""
        assert self._deployment is not None and self._sensors is not None
        check_same_sensors(self._deployment.configuration, configuration)
        pipeline = self._deployment.pipeline
        pipeline.check_limits(configuration)
        if self._loop is not None:
            self._loop.change_limits(configuration)
        else:
            pipeline.change_limits(configuration)
        self._sensors.change_limits(configuration)
        self._deployment = replace(self._deployment, configuration=configuration)

    def _set_anytime(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        if problems := check_anytime(parameters):
            return SetParametersResult(successful=False, reason="\n".join(problems))
        for parameter in parameters:
            if parameter.name == "log_level":
                self._set_log_level(parameter.value or "unset")
        return SetParametersResult(successful=True)

    def _set_log_level(self, level: object) -> None:
        """Set the lowest severity of this node's logger only; an unknown one changes nothing, configure reports it."""
        severity = getattr(LoggingSeverity, str(level).upper(), None)
        if severity is not None:
            self.get_logger().set_level(severity)

    def _swap(self, loading: Loading, parameters: Sequence[Parameter]) -> None:
        """Replace the policy by the loaded one; an exception changes nothing."""
        deployment = loading.result()
        if self._deployment is None or self._deployment.pipeline is not loading.replaced:
            raise ConfigurationError("policy.path: the node was cleaned up while the policy was loading; set it again")
        # Limits may have been changed while the policy was loading.
        configuration = self._parse(parameters)
        deployment.pipeline.check_limits(configuration)
        if self._loop is not None:
            self._loop.replace_policy(deployment.pipeline)
        else:
            loading.replaced.adopt(deployment.pipeline)
        if text := slowness(deployment):
            self.get_logger().warning(text)
        # The pipeline stays: it has the samples and the last commands.
        self._deployment = replace(deployment, pipeline=loading.replaced)
        self._use_limits(configuration)
        if self._reporter is not None:
            self._reporter.description = self._description()


# State of the lifecycle after each transition.
_STATE_AFTER = {
    "activate": "active",
    "deactivate": "inactive",
    "cleanup": "unconfigured",
    "shutdown": "finalized",
    "stopping after an error": "unconfigured",
}
# Remedies by the text of the error for arguments and parameter files that ROS cannot read.
_START_REMEDIES = {
    "Failed to get logging directory": "ROS writes its log below the home folder: set HOME, or ROS_LOG_DIR to a folder "
    "that this user may write, such as ROS_LOG_DIR=/tmp/ros_log",
    "Error opening YAML file": "give --params-file the path of a file that exists",
    "should be of same type": "give all numbers of a list a decimal point, or none",
    "parsing a event": "correct the YAML: no tabs, and in {…} quotes around a value with a colon, as 'package://…'",
    "ros__parameters": "begin the file with the lines `/**:` and `  ros__parameters:`, the parameters below them",
}


def _serve(executor: SingleThreadedExecutor, node: PolicyNode, timeout_s: float = SPIN_TIMEOUT_S) -> None:
    """Run one callback; log its exception, and drive on."""
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except Exception as error:
        node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")
        # Repeated failures must not take time from the tick.
        time.sleep(SPIN_TIMEOUT_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it gets SIGINT or SIGTERM, then make every robot safe."""
    arguments = sys.argv if arguments is None else ["policy_node", *arguments]
    parser = argparse.ArgumentParser(
        prog="policy_node",
        usage="policy_node --ros-args --params-file FILE [-p NAME:=VALUE] [-r __ns:=NAMESPACE]",
        description=f"One learned policy drives a fleet; ROS parameters set everything, as in "
        f"{share_path('config', 'rover.yaml')}.",
        epilog="Arguments for ROS come after --ros-args.",
    )
    # The threads of OpenCV spin while they wait: a single one resizes a camera image in two thirds of the CPU time.
    cv2.setNumThreads(1)
    with ExitStack() as stack:
        try:
            _check_parameter_files(arguments)
            parser.parse_args(remove_ros_args(arguments)[1:])
            stopping = stack.enter_context(ros_process(arguments))
            node = PolicyNode(stopping)
        except Exception as error:
            # ROS reads the file before there is a node that could stay alive.
            remedies = (remedy for text, remedy in _START_REMEDIES.items() if text in str(error))
            print(f"policy_node cannot start: {error}\n{next(remedies, 'correct the ROS arguments')}", file=sys.stderr)
            return 1
        stack.callback(destroy_last_node, node)
        stack.enter_context(warnings_to(node.get_logger().warning))
        executor = SingleThreadedExecutor()
        stack.callback(executor.shutdown)
        stack.callback(node.stop)
        executor.add_node(node)
        status = _drive(executor, node, stopping)
    exit_without(node.loading_threads, status)
    return status


def _check_parameter_files(arguments: Sequence[str]) -> None:
    """Refuse parameter files that would block ROS, which reads them before there is a node; raises OSError."""
    for option, path in pairwise(arguments):
        if option == "--params-file":
            try:
                check_file(path, MAX_BYTES)
            except FileNotFoundError:
                pass  # ROS says so
            except OSError as error:
                raise OSError(f"--params-file {path}: {error.strerror}") from error


def _drive(executor: SingleThreadedExecutor, node: PolicyNode, stopping: threading.Event) -> int:
    """Configure and activate the node if it starts by itself, serve its callbacks until it ends; return the status."""
    event_thread, memory = EventThreadMonitor(), MemoryMonitor()
    if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        # Requests of an operator that came meanwhile are served first.
        requests_until_s = time.monotonic() + REQUESTS_S
        while time.monotonic() < requests_until_s:
            _serve(executor, node, 0.0)
        if not stopping.is_set():
            node.trigger_activate()
    while not stopping.is_set():
        _serve(executor, node)
        if node.has_failed and node.exit_on_failure:
            node.get_logger().fatal(EXITS)
            return 1
        if node.is_configured and event_thread.has_stopped():
            node.get_logger().fatal(EVENT_THREAD_STOPPED)
            return 1
        if memory.is_exhausted():
            # The log line may need memory, too: the robots come first.
            node.stop()
            node.get_logger().fatal(MEMORY_EXHAUSTED)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
