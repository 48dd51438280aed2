# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The style that all plots share: transparent, in colours that are visible on white and on black."""

from __future__ import annotations

from typing import Any

from matplotlib.rcsetup import cycler

NODE, BASELINE = "#2f81f7", "#db6d28"
COLOURS = (NODE, BASELINE, "#3fb950", "#a371f7", "#d29922", "#f85149", "#39c5cf", "#f778ba")
TEXT = "#7d8590"
# Matplotlib's type would name every key.
STYLE: Any = {
    "font.size": 9.5,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": TEXT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "axes.prop_cycle": cycler("color", COLOURS),
}
