# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover arena in MuJoCo: physics, rendering and the Gymnasium environments; nothing here needs ROS."""

import os

# MuJoCo picks its OpenGL platform while it is imported; rendering.py opens EGL itself, so the import can never fail.
os.environ.setdefault("MUJOCO_GL", "disable")
# Images of a rover are small: in software OpenGL, threads that share one cost more than they gain.
os.environ.setdefault("LP_NUM_THREADS", "0")
