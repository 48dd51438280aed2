#!/bin/bash
# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
# Run a command in the container with ROS and the package sourced.
set -e
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /workspace/install/setup.bash
exec "$@"
