# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The example robot: its arena in MuJoCo and Gazebo, training, evaluation and demonstration."""

import os

# MuJoCo chooses its OpenGL platform on import. rendering.py opens EGL itself, so that the import never fails.
os.environ.setdefault("MUJOCO_GL", "disable")
# The images are small: threads of software OpenGL cost more than they gain.
os.environ.setdefault("LP_NUM_THREADS", "0")
