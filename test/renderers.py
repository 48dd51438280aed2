# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Renderers for tests."""

import pytest

from policy_node_rover.mujoco.rendering import RendererError, make_renderer


def renderer_or_skip(model, kind):
    try:
        return make_renderer(model, kind)
    except RendererError as error:
        pytest.skip(str(error))
