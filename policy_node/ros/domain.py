# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A ROS domain of one's own, chosen before ROS starts."""

from __future__ import annotations

import os
import socket

# The port formula of DDS keeps domains up to this one clear of the ports that Linux hands out by itself.
LAST_DOMAIN_ID = 101
# Offsets into the 250 ports of a domain: the first participant listens on one, DDS never uses the other.
PARTICIPANT_PORT = 10
RESERVED_PORT = 2
# Bound for as long as this process lives.
_reservations: list[socket.socket] = []


def free_domain_id() -> int:
    """Reserve a ROS domain in which no process of this machine listens, until this process ends."""
    for attempt in range(LAST_DOMAIN_ID):
        domain_id = 1 + (os.getpid() + attempt) % LAST_DOMAIN_ID
        first_port = 7400 + 250 * domain_id
        reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
            try:
                # A port can be bound once: of processes that choose at the same time, one gets the domain.
                reservation.bind(("", first_port + RESERVED_PORT))
                participant.bind(("", first_port + PARTICIPANT_PORT))
            except OSError:
                reservation.close()
                continue
        _reservations.append(reservation)
        return domain_id
    raise RuntimeError(f"all ROS domains from 1 to {LAST_DOMAIN_ID} are in use on this machine")


def keep_to_itself() -> None:
    """Let this process and its children meet no robots but their own, unless the environment says otherwise."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(free_domain_id()))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
