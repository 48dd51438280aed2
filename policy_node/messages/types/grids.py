# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Occupancy grids, as they are published: row 0 has the smallest y."""

from __future__ import annotations

import numpy as np

from policy_node.config.parameters import ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import deserialise
from policy_node.messages.fields import MessageClass, MessageTypeError
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types import MessageType

_UNKNOWN = -1


class GridReader:
    """Reads nav_msgs/msg/OccupancyGrid into `[height, width]`, with or without an axis of one channel.

    Cells are 0 to 100; unknown ones are -1, where the dtype has no -1 its largest number, or `out_of_range`.
    """

    parallel = False

    def __init__(self, message_type: MessageClass, spec: ArraySpec, choices: ReadingChoices) -> None:
        self._message_type = message_type
        self._size = tuple(length for length in spec.shape if length != 1) if len(spec.shape) == 3 else spec.shape
        if len(self._size) != 2 or spec.dtype.kind not in "iuf":
            raise MessageTypeError(
                f"a grid cannot give {spec.dtype} {list(spec.shape)}; allowed are numbers [height, width], with or "
                "without an axis of one channel"
            )
        has_minus_one = spec.dtype.kind != "u"
        unknown = _UNKNOWN if has_minus_one else np.iinfo(spec.dtype).max
        self._unknown = next(iter(choices.out_of_range), unknown)

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
        message = deserialise(raw, self._message_type)
        height, width = message.info.height, message.info.width
        if (height, width) != self._size:
            raise UnusableReading(
                f"a grid of {height} × {width} cells found, the policy takes {self._size[0]} × {self._size[1]}; "
                "publish a map of that size around the robot"
            )
        if len(message.data) != height * width:
            raise UnusableReading(f"{len(message.data)} cells found in a grid of {height} × {width}")
        cells = np.frombuffer(message.data, np.int8)
        if cells.min() < _UNKNOWN or cells.max() > 100:
            raise UnusableReading(f"a cell has {cells[np.argmax((cells < _UNKNOWN) | (cells > 100))]}, not -1 to 100")
        np.copyto(out, np.where(cells == _UNKNOWN, self._unknown, cells).reshape(out.shape), casting="unsafe")


MESSAGE_TYPES = MessageType(
    "nav_msgs/msg/OccupancyGrid",
    "cells `[height, width]`",
    "one per cell",
    make=GridReader,
    takes=frozenset({"out_of_range"}),
    refuses="another size, as its cells would mean other places; cells other than -1 to 100",
)
