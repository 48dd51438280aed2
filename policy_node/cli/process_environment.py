# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Environment variables that let Fast DDS deliver large images and glibc keep freed memory."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from policy_node.config.package_files import share_path

FASTDDS_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
FASTRTPS_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
# Up to Jazzy Fast DDS knows only the older name; later releases warn about it.
FASTRTPS_DISTRIBUTIONS = ("humble", "iron", "jazzy")

# By default glibc returns the memory of each large message and maps it again: page faults in every tick. Of its arenas,
# 8 for each core, threads that end and start with activations get another one each time, and each keeps its memory.
MALLOC_VARIABLES = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "4",
}
# Their numbers for mallopt, from malloc.h.
_MALLOC_OPTIONS = {
    "MALLOC_TRIM_THRESHOLD_": -1,
    "MALLOC_TOP_PAD_": -2,
    "MALLOC_MMAP_THRESHOLD_": -3,
    "MALLOC_ARENA_MAX": -8,
}


def profile_variable() -> str:
    """Return the variable that names the XML profile of Fast DDS in this ROS distribution."""
    return FASTRTPS_VARIABLE if os.environ.get("ROS_DISTRO") in FASTRTPS_DISTRIBUTIONS else FASTDDS_VARIABLE


def transport_environment(profile: Path | None = None) -> dict[str, str]:
    """Return the variable that makes Fast DDS read a profile; nothing where the environment has one already.

    Parameters
    ----------
    profile
        XML file; None: `config/fastdds.xml`, with a shared memory for large images.
    """
    if os.environ.get(FASTDDS_VARIABLE) or os.environ.get(FASTRTPS_VARIABLE):
        return {}
    return {profile_variable(): str(profile or share_path("config", "fastdds.xml"))}


def memory_environment() -> dict[str, str]:
    """Return the variables that make glibc keep freed memory, without those that are set already."""
    return {name: value for name, value in MALLOC_VARIABLES.items() if name not in os.environ}


def keep_memory() -> None:
    """Make glibc keep freed memory in this process, except for options that the environment sets already."""
    # Other C libraries have no mallopt.
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        for name, value in memory_environment().items():
            set_option(_MALLOC_OPTIONS[name], int(value))
