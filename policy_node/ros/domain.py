# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A ROS domain of one's own, chosen before ROS starts."""

from __future__ import annotations

import os
import socket

# The port formula of DDS keeps domains up to this one clear of the ports that Linux hands out by itself.
LAST_DOMAIN_ID = 101


def free_domain_id() -> int:
    """Return a ROS domain in which nobody on this machine listens."""
    for attempt in range(LAST_DOMAIN_ID):
        # Beginning at the process id, programs that start together choose different ones.
        domain_id = 1 + (os.getpid() + attempt) % LAST_DOMAIN_ID
        discovery_port = 7400 + 250 * domain_id
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
            try:
                participant.bind(("", discovery_port + 10))  # where the domain's first participant listens
            except OSError:
                continue
        return domain_id
    raise RuntimeError(f"all ROS domains from 1 to {LAST_DOMAIN_ID} are in use on this machine")


def keep_to_itself() -> None:
    """Let this process and its children meet no robots but their own, unless the environment says otherwise."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(free_domain_id()))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
