# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: configure loads and warms up, activate starts the tick, deactivate makes every robot safe."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import rclpy
import torch
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from policy_node.configuration import (
    Configuration,
    ConfigurationError,
    ObservationConfiguration,
    TermConfiguration,
    parse_configuration,
)
from policy_node.pipeline import Pipeline, match_observations, side_by_side
from policy_node.policies import Policy, PolicyError, load_policy
from policy_node.ros.control_loop import ControlLoop
from policy_node.ros.diagnostics import Reporter
from policy_node.ros.messages import MessageTypeError, ReadingDecoder, command_encoder, reading_decoder, reading_size
from policy_node.ros.parameters import declare_parameters, read_parameters
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.subscriptions import SensorSubscriptions, check_topics

# How late a signal may be noticed. Each wake-up takes the tick thread's time, more so with a timeout that varies.
SPIN_TIMEOUT_S = 0.25


class PolicyNode(LifecycleNode):
    """Drives a fleet with one policy; all resources are made in configure and freed in cleanup.

    Parameters
    ----------
    **node_arguments
        Passed to `rclpy.node.Node`, such as `namespace` or `parameter_overrides`.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(
            "policy_node",
            allow_undeclared_parameters=True,
            automatically_declare_parameters_from_overrides=True,
            **node_arguments,
        )
        self._configuration: Configuration | None = None
        self._policy: Policy | None = None
        self._pipeline: Pipeline | None = None
        self._sensors: SensorSubscriptions | None = None
        self._commands: CommandPublishers | None = None
        self._loop: ControlLoop | None = None
        self._reporter: Reporter | None = None
        declare_parameters(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)

    @property
    def autostart(self) -> bool:
        """Whether the node is to configure and activate by itself; a wrong type counts as yes, configure names it."""
        return self.get_parameter("autostart").value is not False

    def start(self) -> None:
        """Configure and activate; when configure fails the node stays unconfigured, having said why."""
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def stop(self) -> None:
        """Make every robot safe and free everything, whatever state the node is in."""
        self._deactivate()
        self._cleanup()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read and check the configuration, load the policy, open the topics and warm up."""
        started = time.perf_counter()
        try:
            self._configure()
        except (ConfigurationError, PolicyError) as error:
            self._fail(f"configure failed:\n{error}")
        except Exception as error:  # nothing may end the process: the node can be configured again
            self._fail(f"configure failed: {type(error).__name__}: {error}")
        else:
            assert self._configuration is not None and self._policy is not None
            spec = self._policy.spec
            self.get_logger().info(
                f"configured in {time.perf_counter() - started:.1f} s: {spec.algorithm} policy "
                f"{self._configuration.policy.path} on {self._policy.device}, "
                f"{len(self._configuration.robots)} robots at {self._configuration.control_rate_hz:g} Hz"
            )
            return TransitionCallbackReturn.SUCCESS
        return TransitionCallbackReturn.FAILURE

    def _fail(self, text: str) -> None:
        self._cleanup()
        self.get_logger().error(f"{text}\nThe node stays alive: mend the parameters, then configure it again.")

    def _configure(self) -> None:
        # Values may have been set, or keys named, since the node was made.
        declare_parameters(self)
        configuration = parse_configuration(read_parameters(self))
        check_topics(self, configuration)
        torch.set_num_threads(configuration.policy.threads)
        policy = load_policy(
            configuration.policy.path,
            configuration.policy.device,
            trusted=configuration.policy.trusted,
            vecnormalize=configuration.policy.vecnormalize or None,
            sha256=configuration.policy.sha256 or None,
        )
        layouts = match_observations(configuration, policy, reading_sizes(configuration))
        specs = {name: spec for layout in layouts.values() for name, spec in layout.readings.items()}
        problems: list[str] = []
        decoders: dict[str, ReadingDecoder] = {}
        for source in configuration.sources:
            try:
                decoders[source.name] = reading_decoder(
                    source.type,
                    specs[source.name],
                    topic=source.topic,
                    field=source.field,
                    fields=source.fields,
                    joints=source.joints,
                    encoding=source.encoding if isinstance(source, ObservationConfiguration) else "",
                )
            except MessageTypeError as error:
                problems.append(f"observations.{source.name}: {error}")
        if problems:
            raise ConfigurationError([*problems, side_by_side(configuration, policy)])
        decode = {key: decoder.decode for key, decoder in decoders.items()}
        pipeline = Pipeline(configuration, policy, layouts, decode)
        action = configuration.action
        try:
            encoder = command_encoder(
                action.type,
                pipeline.components,
                fields=action.fields,
                joints=action.joints,
                field=action.field,
                frame_id=action.frame_id,
                time_from_start_s=action.time_from_start_s or 1.0 / configuration.control_rate_hz,
            )
        except MessageTypeError as error:
            raise ConfigurationError([f"action: {error}"]) from error
        pipeline.warm_up()
        self._configuration, self._policy, self._pipeline = configuration, policy, pipeline
        self._commands = CommandPublishers(self, configuration, encoder, pipeline.safe_command)
        self._sensors = SensorSubscriptions(self, configuration, decoders)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the tick."""
        configuration, policy, pipeline = self._configuration, self._policy, self._pipeline
        assert configuration and policy and pipeline and self._sensors and self._commands
        pipeline.reset()
        self._loop = ControlLoop(
            pipeline,
            self._sensors,
            self._commands,
            configuration.period_ns,
            self.get_clock(),
            simulated=self.get_parameter("use_sim_time").value,
            on_failure=self._on_loop_failure,
        )
        description = {
            "policy": configuration.policy.path,
            "policy_sha256": policy.spec.sha256,
            "algorithm": policy.spec.algorithm,
            "device": str(policy.device),
            "rmw": rclpy.get_rmw_implementation_identifier(),
        }
        self._reporter = Reporter(self, configuration, pipeline, self._loop, description)
        # A full collection of what configure made takes as long as several ticks; frozen objects are never collected.
        gc.collect()
        gc.freeze()
        self._loop.start()
        self.get_logger().info(f"active: driving {', '.join(configuration.robots)}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the tick and send every robot the safe command."""
        self._deactivate()
        return TransitionCallbackReturn.SUCCESS

    def _deactivate(self) -> None:
        if self._loop is not None:
            self._loop.stop()
            self._loop = None
            gc.unfreeze()
            self.get_logger().info("inactive: every robot got the safe command")
        if self._reporter is not None:
            self._reporter.destroy()
            self._reporter = None

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the topics and free the policy."""
        self._cleanup()
        return TransitionCallbackReturn.SUCCESS

    def _cleanup(self) -> None:
        if self._sensors is not None:
            self._sensors.destroy()
        if self._commands is not None:
            self._commands.destroy()
        self._configuration = self._policy = self._pipeline = self._sensors = self._commands = None

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make every robot safe and free everything."""
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after an exception in a transition, with every robot safe."""
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    def _on_loop_failure(self, error: Exception) -> None:
        self.get_logger().fatal(
            f"the control loop ended: {type(error).__name__}: {error}. Every robot got the safe command; "
            f"deactivate and activate the node to go on."
        )

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        # All of them, use_sim_time too: the tick runs on the clock that it was started with.
        if self._configuration is not None:
            names = ", ".join(parameter.name for parameter in parameters)
            reason = (
                f"{names}: parameters are read at configure; deactivate and clean up the node, set them, "
                f"then configure it again"
            )
            return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)


def reading_sizes(configuration: Configuration) -> dict[str, int | None]:
    """Return by the name of each term how many numbers its messages give, None where only each message says it.

    Raises
    ------
    ConfigurationError
        When a message type cannot be read as configured; with one line for every problem.
    """
    sizes: dict[str, int | None] = {}
    problems = []
    for source in configuration.sources:
        if isinstance(source, TermConfiguration):
            try:
                sizes[source.name] = reading_size(source.type, source.field, source.fields, source.joints)
            except MessageTypeError as error:
                problems.append(f"observations.{source.name}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return sizes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it gets SIGINT or SIGTERM, then make every robot safe."""
    arguments = sys.argv if arguments is None else ["policy_node", *arguments]
    parser = argparse.ArgumentParser(
        prog="policy_node",
        usage="policy_node --ros-args --params-file FILE [-p NAME:=VALUE] [-r __ns:=NAMESPACE]",
        description="One learned policy drives a fleet; ROS parameters set everything, see config/rover.yaml.",
    )
    parser.parse_args(remove_ros_args(arguments)[1:])
    stopping = False

    def stop(signal_number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    # Our own handlers: rclpy's would close the topics before the safe commands are sent.
    rclpy.init(args=None if arguments is None else list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    node = PolicyNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.autostart:
            node.start()
        while not stopping:
            executor.spin_once(timeout_sec=SPIN_TIMEOUT_S)
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
