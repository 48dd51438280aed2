# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The settings with which a fleet's processes lose no images and keep their memory."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from policy_node.config.package_files import share_path

FASTDDS_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
FASTRTPS_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
# Up to Jazzy Fast DDS knows only the older name; later ones warn of it.
FASTRTPS_DISTRIBUTIONS = ("humble", "iron", "jazzy")

# glibc gives memory back and maps it again for each large message, which costs page faults in every tick.
MALLOC_VARIABLES = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
# Their numbers in malloc.h.
_MALLOC_OPTIONS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}


def profile_variable() -> str:
    """Return the variable that names the XML profile of Fast DDS in the ROS distribution at hand."""
    return FASTRTPS_VARIABLE if os.environ.get("ROS_DISTRO") in FASTRTPS_DISTRIBUTIONS else FASTDDS_VARIABLE


def transport_environment(profile: Path | None = None) -> dict[str, str]:
    """Return what makes Fast DDS read a profile; nothing where the environment names one already.

    Parameters
    ----------
    profile
        XML file; None: `config/fastdds.xml`.
    """
    if os.environ.get(FASTDDS_VARIABLE) or os.environ.get(FASTRTPS_VARIABLE):
        return {}
    return {profile_variable(): str(profile or share_path("config", "fastdds.xml"))}


def memory_environment() -> dict[str, str]:
    """Return what makes glibc keep the memory of large messages, except what the environment sets already."""
    return {name: value for name, value in MALLOC_VARIABLES.items() if name not in os.environ}


def keep_memory() -> None:
    """Make glibc keep the memory of large arrays in this process, except what the environment sets already."""
    # Other C libraries have no such option.
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        for name, value in memory_environment().items():
            set_option(_MALLOC_OPTIONS[name], int(value))
