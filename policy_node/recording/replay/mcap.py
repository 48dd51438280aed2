# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read the ROS channels of an MCAP file that has other channels, too."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from rosbags.interfaces import ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat

if TYPE_CHECKING:
    from rosbags.rosbag2.storage_mcap import McapReader, Schema

_MODULE = "rosbags.rosbag2.storage_mcap"


def _mcap_module() -> Any:
    """Load a second copy of the MCAP module of rosbags that reads schemas of any encoding.

    Its reader has no hooks for the two functions below. Replaced in a copy, they stay the same for others.
    """
    spec = importlib.util.find_spec(_MODULE)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    absent = [name for name in ("get_msgdef", "read_bytes", "read_string") if not hasattr(module, name)]
    if absent:
        raise ImportError(f"{_MODULE} has no {' and no '.join(absent)}; install 'rosbags>=0.11,<0.12'")
    definition_of = module.get_msgdef

    def read_text(stream: BinaryIO) -> str:
        """Read a text; schemas of other encodings, such as Protobuf, are binary."""
        text: bytes = module.read_bytes(stream)
        return text.decode(errors="replace")

    def definition(schema: Schema | None) -> MessageDefinition:
        try:
            return cast("MessageDefinition", definition_of(schema))
        except KeyError:  # another encoding
            return MessageDefinition(MessageDefinitionFormat.NONE, "")

    module.read_string, module.get_msgdef = read_text, definition
    return module


if not TYPE_CHECKING:
    McapReader = _mcap_module().McapReader


class RosMcapReader(McapReader):
    """Leaves out channels with messages in other encodings, such as JSON and Protobuf."""

    def open(self) -> None:
        """Open the file and read its index."""
        super().open()
        self.connections = [
            each
            for each in self.connections
            if cast("ConnectionExtRosbag2", each.ext).serialization_format == "cdr" and each.msgtype
        ]
