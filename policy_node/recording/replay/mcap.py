# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read the ROS channels of an MCAP file that has other channels, too."""

from __future__ import annotations

from typing import BinaryIO, cast

from rosbags.interfaces import ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import storage_mcap

_read_definition = storage_mcap.get_msgdef


def _read_text(stream: BinaryIO) -> str:
    """Read a text; the schema of another encoding, such as Protobuf, may be none."""
    return storage_mcap.read_bytes(stream).decode(errors="replace")


def _definition(schema: storage_mcap.Schema | None) -> MessageDefinition:
    try:
        return _read_definition(schema)
    except KeyError:  # another encoding
        return MessageDefinition(MessageDefinitionFormat.NONE, "")


# The reader has no hooks for both.
storage_mcap.read_string = _read_text  # type: ignore[assignment]
storage_mcap.get_msgdef = _definition


class RosMcapReader(storage_mcap.McapReader):
    """Leaves out channels with messages in other encodings, such as JSON and Protobuf."""

    def open(self) -> None:
        """Open the file and read its index."""
        super().open()
        self.connections = [
            each
            for each in self.connections
            if cast("ConnectionExtRosbag2", each.ext).serialization_format == "cdr" and each.msgtype
        ]
