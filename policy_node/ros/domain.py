# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Reserve a free ROS domain before ROS starts, and tell which one is used."""

from __future__ import annotations

import os
import socket

# The ports of domains up to this one are below the ephemeral ports of Linux.
LAST_DOMAIN_ID = 101
# Offsets into the 250 ports of a domain: the first participant listens on one, DDS never uses the other.
PARTICIPANT_PORT = 10
RESERVED_PORT = 2
# Bound until this process ends.
_reservations: list[socket.socket] = []


def free_domain_id() -> int:
    """Reserve a ROS domain that no process of this machine uses, until this process ends."""
    for attempt in range(LAST_DOMAIN_ID):
        domain_id = 1 + (os.getpid() + attempt) % LAST_DOMAIN_ID
        first_port = 7400 + 250 * domain_id
        reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
            try:
                # A port can be bound only once: if processes choose simultaneously, one gets the domain.
                reservation.bind(("", first_port + RESERVED_PORT))
                participant.bind(("", first_port + PARTICIPANT_PORT))
            except OSError:
                reservation.close()
                continue
        _reservations.append(reservation)
        return domain_id
    raise RuntimeError(f"all ROS domains from 1 to {LAST_DOMAIN_ID} are in use on this machine")


def keep_to_itself() -> None:
    """Isolate this process and its children in a free domain, unless the environment chooses one."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(free_domain_id()))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


def search_scope() -> str:
    """Return where this process looks for other nodes, for errors that found none."""
    domain = os.environ.get("ROS_DOMAIN_ID", "0 (not set)")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET (not set)")
    return f"ROS_DOMAIN_ID {domain} and ROS_AUTOMATIC_DISCOVERY_RANGE {reach}"
