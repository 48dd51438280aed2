# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that were recorded, as numbers; and commands of a replay, as a bag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from rclpy.serialization import deserialize_message
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_typestore

from policy_node.configuration import (
    COMMAND_TYPES,
    FLOAT64_ARRAY,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    TWIST,
    TWIST_STAMPED,
    ActionConfiguration,
    Configuration,
)
from policy_node.ros.cdr import body_end
from policy_node.ros.deployment import configured_encoder
from policy_node.ros.fields import message_class
from policy_node.ros.messages import MessageTypeError, reading_decoder
from policy_node.ros.serialised import fleet_encoder
from policy_node.samples import UnusableReading
from policy_node.specs import ArraySpec
from policy_node.tools.replay_bag import BagError

# Reads a command `[components]` float64 from a serialised message; raises `UnusableReading`.
ReadCommand = Callable[[bytes], np.ndarray]


def component_names(action: ActionConfiguration, components: int) -> tuple[str, ...]:
    """Return what the components of a command are called."""
    return action.fields or action.joints or tuple(f"[{component}]" for component in range(components))


def command_reader(type_name: str, action: ActionConfiguration, components: int, topic: str) -> ReadCommand:
    """Make what reads recorded commands as the configuration would have sent them.

    Parameters
    ----------
    type_name
        Of the recorded messages; with the fields of a Twist a TwistStamped may be read, and the other way round, with
        the joints of a JointState a JointTrajectory.
    action
        Which field or joint each component is.
    components
        How many a command has.
    topic
        Named in errors.

    Raises
    ------
    BagError
        When commands of that type cannot be compared with those of the configuration.
    """
    if type_name == JOINT_TRAJECTORY and action.joints:
        return _trajectory_reader(action.joints)
    fields: Sequence[str] = ()
    joints: Sequence[str] = ()
    field = ""
    if type_name in (TWIST, TWIST_STAMPED) and action.fields:
        fields = [f"twist.{path}" if type_name == TWIST_STAMPED else path for path in action.fields]
    elif type_name == JOINT_STATE and action.joints:
        joints, field = action.joints, action.field
    elif type_name != FLOAT64_ARRAY:
        raise BagError(
            f"--compare {topic}: it is {type_name}, which has no components of a {action.type}; give a topic of one of "
            f"{', '.join(COMMAND_TYPES)}"
        )
    spec = ArraySpec("command", (components,), np.float64, -np.inf, np.inf)
    try:
        decoder = reading_decoder(type_name, spec, topic=topic, fields=fields, joints=joints, field=field)
    except MessageTypeError as error:
        raise BagError(f"--compare: {error}") from error

    def read(raw: bytes) -> np.ndarray:
        command = np.empty(components)
        decoder.decode(raw, command)
        return command

    return read


def _trajectory_reader(joints: Sequence[str]) -> ReadCommand:
    """Read the first point of a JointTrajectory."""
    message_type = message_class(JOINT_TRAJECTORY)

    def read(raw: bytes) -> np.ndarray:
        body_end(raw)
        try:
            message = deserialize_message(raw, message_type)
            positions = dict(zip(message.joint_names, message.points[0].positions, strict=True))
            return np.array([positions[joint] for joint in joints], np.float64)
        # The middleware chooses what it raises.
        except Exception as error:
            raise UnusableReading(f"no positions of the joints: {error}") from error

    return read


class CommandBag:
    """A bag of commands: one topic per robot, MCAP, with schemas.

    Parameters
    ----------
    path
        The folder to make.
    configuration
        Says how commands are sent.
    topics
        By robot, fully qualified.
    components
        Of a command.
    custom
        Kept beside the messages.

    Raises
    ------
    BagError
        When the folder is there already, or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        configuration: Configuration,
        topics: Sequence[str],
        components: int,
        custom: Mapping[str, str],
    ) -> None:
        encoder = configured_encoder(configuration, components)
        self._encode = fleet_encoder(encoder, len(topics))
        try:
            self._writer = Writer(path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP)
            for name, value in custom.items():
                self._writer.set_custom_data(name, value)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise BagError(f"--output {path}: {error}; give a folder that is not there yet") from error
        typestore = get_typestore(Stores.LATEST)
        self._connections = [
            self._writer.add_connection(
                topic, configuration.action.type, typestore=typestore, offered_qos_profiles=[_qos()]
            )
            for topic in topics
        ]

    def __enter__(self) -> CommandBag:
        """Return the bag, which is completed at the end, whatever happened."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the bag."""
        self._writer.close()

    def write(self, time_ns: int, commands: np.ndarray, publish: np.ndarray) -> None:
        """Write the rows of `commands` `[robots, components]` that `publish` `[robots]` names, as of a time."""
        robots = np.flatnonzero(publish).tolist()
        for robot, message in zip(robots, self._encode(commands, robots, time_ns), strict=True):
            self._writer.write(self._connections[robot], time_ns, message)


def _qos() -> Qos:
    """Return what the node offers on its command topics."""
    forever = QosTime(sec=0, nsec=0)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )
