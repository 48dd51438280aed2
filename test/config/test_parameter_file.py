# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Parameter files: read as ROS reads them, or refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_node.config.parameter_file import parse_override, parse_parameters, parse_yaml
from policy_node.config.schema import ConfigurationError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-3E4", -3e4),
        ("5.", 5.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("0x1F", 31),
        ("010", 8),
        ("0", 0),
        ("true", True),
        # Numbers and dates of YAML 1.1 that are texts for ROS.
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("2026-99-99", "2026-99-99"),
        # Texts that begin as a number.
        ("0E0robot_joint_pos", "0E0robot_joint_pos"),
        ("1e5_a", "1e5_a"),
        ("0x", "0x"),
    ],
)
def test_values_are_read_as_by_ros(text: str, value: Any) -> None:
    read = parse_yaml(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["!!int x", "!!float ''", "!!bool maybe", "!!timestamp x", "a: =", "a: [", "[" * 5000])
def test_damaged_values_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="value is no YAML"):
        parse_override(f"a:={text}")
    with pytest.raises(ConfigurationError, match="the file is no YAML that ROS can read"):
        parse_parameters(text, "the file")


@given(
    st.one_of(
        st.text(max_size=20),
        st.from_regex(
            r"(!!(int|float|bool|timestamp|binary|set) )?[-+]?[0-9._:xobE+-]{0,12}[a-z_]{0,4}", fullmatch=True
        ),
    )
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_yaml(text)
    except ValueError:
        return
