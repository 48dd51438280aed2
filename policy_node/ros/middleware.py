# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Name the features that a middleware lacks."""

from __future__ import annotations

import rclpy

# Notes the arrival of a message when it is taken, and gives messages no sequence numbers.
CYCLONE = "rmw_cyclonedds_cpp"
ZENOH = "rmw_zenoh_cpp"
_LACKS = {
    "rmw_fastrtps_cpp": "",
    "rmw_fastrtps_dynamic_cpp": "",
    CYCLONE: "it does not number messages, so lost messages of sensors are not counted",
    ZENOH: "it has no deadline and no liveliness, so robots notice by their own timeout only that commands "
    "cease; it confirms no arrival, so the last safe commands may be lost when the node ends",
}


def middleware() -> str:
    """Return the name of the middleware, such as `rmw_fastrtps_cpp`."""
    return rclpy.get_rmw_implementation_identifier()


def reports_deadlines() -> bool:
    """Return whether the middleware may report missed deadlines and lost liveliness.

    Newer versions of rmw_zenoh_cpp accept handlers of such events and never call them; older ones raise an error.
    """
    return middleware() != ZENOH


def confirms_arrival() -> bool:
    """Return whether the middleware waits for the acknowledgement of messages; rmw_zenoh_cpp answers at once."""
    return middleware() != ZENOH


def lacking(name: str) -> str:
    """Return in one line the features that a middleware lacks, with the remedy; empty if it lacks none."""
    lacks = _LACKS.get(name, "it was never tried with this node")
    return lacks and f"{name}: {lacks}; see the table of middlewares in doc/safety.md, or use rmw_fastrtps_cpp"
