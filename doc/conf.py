# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of Sphinx: `make docs` builds the documentation, rosdoc2 finds this file in doc/."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "policy_node"
author = "The policy_node authors"
copyright = "2026, The policy_node authors"

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "sphinx_rtd_theme"

# Headings of Markdown are link targets; a link to a missing heading or file is a warning, and so an error.
myst_heading_anchors = 4

# The API reference: one page per subpackage, from the docstrings.
apidoc_modules = [
    {
        "path": str(ROOT / "policy_node"),
        "destination": "api",
        "automodule_options": {"members", "show-inheritance"},
        "separate_modules": False,
        "module_first": True,
    }
]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# Subpackages re-export names of their modules: a type is then found twice, which is no mistake.
suppress_warnings = ["ref.python"]
# The launch system comes with a ROS installation, not from PyPI.
autodoc_mock_imports = ["launch", "launch_ros"]
