# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: configure loads and warms up, activate starts the tick, deactivate makes every robot safe."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.subscription import Subscription

from policy_node.config.schema import ConfigurationError, named, parse_configuration, topic_of
from policy_node.control.realtime import check_realtime, frozen_garbage, switch_interval
from policy_node.recording.recorder import Recording, RecordingPlan, plan_recording
from policy_node.ros.bond import bond, check_bond
from policy_node.ros.diagnostics import LifecycleDiagnostics, Reporter
from policy_node.ros.middleware import lacking, middleware
from policy_node.ros.ownership import Claims
from policy_node.ros.parameter_changes import ParameterChanges
from policy_node.ros.parameters import declare_parameters, read_parameters
from policy_node.ros.process import (
    Interrupted,
    end_process_if_destruction_hangs,
    raise_if_interrupted,
    run_interruptibly,
)
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.rclpy_internals import check_executor, waited_on
from policy_node.ros.services import Operation
from policy_node.ros.subscriptions import SensorSubscriptions, check_topics
from policy_node.ros.tasks import TaskTopics

if TYPE_CHECKING:
    from policy_node.ros.control_loop import ControlLoop
    from policy_node.ros.deployment import Deployment

REMEDY = (
    "correct the file and start the node again, or set the parameters (ros2 param set, ros2 param load) and configure "
    "it again"
)
SAFE = "every robot got the safe command"


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
        self.deployment: Deployment | None = None
        self.sensors: SensorSubscriptions | None = None
        self._commands: CommandPublishers | None = None
        self.loop: ControlLoop | None = None
        self._claims: Claims | None = None
        self.tasks: TaskTopics | None = None
        self.reporter: Reporter | None = None
        self._plan: RecordingPlan | None = None
        self._has_pytorch = False
        # Frees what configure and activate made, in the reverse order.
        self._configured = ExitStack()
        self._activated = ExitStack()
        self._diagnostics = LifecycleDiagnostics(self)
        self._operation = Operation(self)
        self._loop_failed = self.create_guard_condition(self._leave_failed_loop)
        declare_parameters(self)
        #: Sets parameters, also of the running node.
        self.parameter_changes = ParameterChanges(self)

    @property
    def subscriptions(self) -> Iterator[Subscription[Any]]:
        """The subscriptions that executors wait on; the tick takes the messages of all others."""
        return waited_on(super().subscriptions)

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

    def make_safe(self) -> None:
        """Make every robot safe and end the tick, in any state of the node."""
        self._deactivate()

    def stop(self) -> None:
        """Make every robot safe and free everything, in any state of the node."""
        try:
            self._deactivate()
        finally:
            self._cleanup()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read and check the configuration, load the policy, open the topics and warm up."""
        started = time.perf_counter()
        self._diagnostics.note("configuring")
        try:
            self._configure()
        except Interrupted:
            self._cleanup()
            self._diagnostics.note("unconfigured")
            self.get_logger().warning("configure was interrupted by a signal")
        except ConfigurationError as error:
            self._fail(f"configure failed:\n{error}")
        except Exception as error:  # the process stays alive: the node can be configured again
            # The process cannot use a device again that failed, but one whose memory ran out.
            lost = "; if this happens again, start the node again" if _is_device_failure(error) else ""
            self._fail(f"configure failed: {type(error).__name__}: {error}{lost}")
        else:
            assert self.deployment is not None
            configuration, policy = self.deployment.configuration, self.deployment.policy
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
        # Where exit_on_failure is true, the process says that it ends.
        self.get_logger().error(text if self.exit_on_failure else f"{text}\nThe node stays alive: {REMEDY}.")

    def _configure(self) -> None:
        check_executor(self)
        # Values may have been set, or keys named, since the node was created.
        declare_parameters(self)
        self.parameter_changes.use_log_level()
        # Files may be slow, and policies compute for long: a signal ends the wait for them.
        parameters = run_interruptibly(lambda: read_parameters(self), self._stopping)
        with parameters.described.named_in_errors():
            self._configure_from(parameters.values)
        self.parameter_changes.begin(parameters)

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
                robot: [self.resolve_topic_name(topic_of(robot, command.topic)) for command in configuration.commands]
                for robot in configuration.robots
            },
            configuration.claims_topic,
            self._stopping,
        )
        self._configured.callback(self._claims.destroy)
        # PyTorch takes seconds to import, in which claims arrive.
        run_interruptibly(lambda: importlib.import_module("policy_node.ros.control_loop"), self._stopping)
        deployments = run_interruptibly(lambda: importlib.import_module("policy_node.ros.deployment"), self._stopping)
        self._has_pytorch = True
        deployment = run_interruptibly(lambda: deployments.deploy(configuration), self._stopping)
        encoders = deployments.configured_encoders(configuration, deployment.pipeline.components)
        if deployment.policy.spec.mask:
            self.get_logger().warning(
                "policy.path: this policy was trained with masks of allowed choices, which no topic gives here; it may "
                "take choices that were forbidden in training"
            )
        self.get_logger().info(f"{deployment.engine}")
        if text := deployments.slowness(deployment):
            self.get_logger().warning(text)
        self.deployment = deployment
        self._commands = CommandPublishers(self, configuration, encoders, self._stopping)
        self._configured.callback(self._commands.destroy)
        self.sensors = SensorSubscriptions(self, configuration, deployment.decoders, self._stopping)
        self._configured.callback(self.sensors.destroy)
        self.tasks = TaskTopics(self, configuration)
        self._configured.callback(self.tasks.destroy)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the tick."""
        return self._transition("activate", self._activate)

    def _transition(self, name: str, act: Callable[[], None]) -> TransitionCallbackReturn:
        """Run a transition; log an exception, which rclpy would swallow, and go to `on_error`."""
        try:
            act()
        except Interrupted:
            # An activation, before its tick began: a safe command could reach a robot that another node drives.
            self.loop = None
            self._deactivate()
            self._diagnostics.note("inactive", None)
            self.get_logger().warning(f"{name} was interrupted by a signal")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            failure = f"{name} failed: {type(error).__name__}: {error}"
            self._diagnostics.note("unconfigured", self._diagnostics.failure or failure)
            self.get_logger().error(f"{failure}; configure the node again")
            return TransitionCallbackReturn.ERROR
        self._diagnostics.note(_STATE_AFTER[name], None)
        return TransitionCallbackReturn.SUCCESS

    def _activate(self) -> None:
        assert self.deployment and self.sensors and self._commands and self._claims and self.tasks
        configuration, pipeline, claims = self.deployment.configuration, self.deployment.pipeline, self._claims
        if configuration.realtime.freeze_gc:
            # Garbage of configure, and the control loop and the recording before, would be frozen with all else.
            gc.collect()
        # The loop may have ended before it used the newest limits.
        pipeline.change_limits(configuration)
        pipeline.reset()
        # Freed last, because destroying its publishers may hang: the recording must be complete by then.
        self._activated.callback(self._destroy_reporter)
        recording = None
        if self._plan is not None:
            recording = Recording(self._plan, self.deployment.policy.spec.sha256, self.get_logger())
            self._activated.callback(recording.end)
            self._activated.callback(setattr, self._commands, "on_sent", None)
            self._commands.on_sent = recording.note_commands
            recording.start(self._stopping.is_set)
        from policy_node.ros.control_loop import ControlLoop

        self.loop = ControlLoop(
            configuration,
            pipeline,
            self.sensors,
            self._commands,
            self.get_clock(),
            simulated=self.get_parameter("use_sim_time").value,
            logger=self.get_logger(),
            on_failure=self._on_loop_failure,
            may_command=lambda: claims.holds,
            recording=recording,
        )
        self.reporter = Reporter(
            self,
            configuration,
            self.loop,
            self.sensors,
            self.describe_policy(),
            self._diagnostics.publisher,
            lambda: self.deployment,
            recording,
            lambda: self.deployment.decoders if self.deployment is not None else {},
            self.tasks.rejected,
        )
        self._activated.callback(self.reporter.report_end)
        self._operation.attach(self.loop, configuration.robots)
        self.tasks.attach(self.loop.set_task)
        self._activated.callback(self.tasks.attach, None)
        self._activated.callback(claims.end)
        claims.begin(self._on_claims)
        self._activated.enter_context(switch_interval(configuration.realtime.switch_interval_s))
        if configuration.realtime.freeze_gc:
            self._activated.enter_context(frozen_garbage())
        raise_if_interrupted(self._stopping)
        self.loop.start()
        self._activated.enter_context(bond(self, configuration.bond_period_s))
        self.get_logger().info(f"active: {named(configuration.robots)}, each driven once its readings are good")

    def describe_policy(self) -> dict[str, str]:
        """Return the values about the policy in diagnostics."""
        assert self.deployment is not None and self._claims is not None
        policy = self.deployment.policy
        return {
            "policy": self.deployment.configuration.policy.path,
            "policy_sha256": policy.spec.sha256,
            "algorithm": policy.spec.algorithm,
            "device": str(policy.device),
            **self.deployment.engine.description,
            **({"engine_session": session} if (session := self.deployment.pipeline.session) else {}),
            "rmw": middleware(),
            **{f"{robot}_also_commanded_by": others for robot, others in self._claims.conflicts.items()},
        }

    def _on_claims(self, owners: Mapping[int, str]) -> None:
        """Yield robots to the nodes that command them already."""
        if self.loop is not None and self.reporter is not None:
            self.loop.yield_robots(owners)
            self.reporter.description = self.describe_policy()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Send every robot the safe command and stop the tick."""
        return self._transition("deactivate", self._deactivate)

    def _deactivate(self) -> None:
        loop, self.loop = self.loop, None
        self._operation.detach()
        try:
            if loop is not None:
                if not loop.stop():
                    raise RuntimeError("the current tick or inference hangs; it can send no more commands")
                if loop.failure is not None:
                    raise RuntimeError("the control loop has ended") from loop.failure
                self.get_logger().info(f"inactive: {self._safety()}")
        finally:
            self._activated.close()

    def _destroy_reporter(self) -> None:
        reporter, self.reporter = self.reporter, None
        if reporter is not None:
            with end_process_if_destruction_hangs():
                reporter.destroy()

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the topics and free the policy."""
        return self._transition("cleanup", self._cleanup)

    def _cleanup(self) -> None:
        self.sensors = self._commands = self._claims = self.tasks = self.deployment = self._plan = None
        with end_process_if_destruction_hangs():
            self._configured.close()
        # The exception of a failed loop and the caches of PyTorch may keep much memory.
        gc.collect()
        # A thread that a signal abandoned may still import PyTorch, which is incomplete then.
        if self._has_pytorch and (torch := sys.modules["torch"]).cuda.is_initialized():
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
        if self.loop is not None and self.loop.failure is not None:
            self.trigger_deactivate()

    def _safety(self) -> str:
        """Return which robots got a safe command when they were stopped."""
        without = self._commands.without_safe_command if self._commands is not None else ()
        yielded = self._claims.yielded_robots if self._claims is not None else ()
        unsafe = [robot for robot in without if robot not in yielded]
        safe = f"no safe command is known for {', '.join(unsafe)}; every other robot got one" if unsafe else SAFE
        return safe + (f", but for {', '.join(yielded)}, left to another node" if yielded else "")


def _is_device_failure(error: Exception) -> bool:
    """Whether the device failed; without PyTorch none was in use."""
    if "policy_node.ros.deployment" not in sys.modules:
        return False
    from policy_node.engines.failures import is_device_failure

    return is_device_failure(error)


# State of the lifecycle after each transition.
_STATE_AFTER = {
    "activate": "active",
    "deactivate": "inactive",
    "cleanup": "unconfigured",
    "shutdown": "finalized",
    "stopping after an error": "unconfigured",
}
