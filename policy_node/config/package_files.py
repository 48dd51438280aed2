# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Find the files that are installed with the code: `config/`, `models/`, `launch/`."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = "policy_node"


def share_path(*parts: str) -> Path:
    """Return the absolute path of a file or folder of this copy of the package, such as `"config", "rover.yaml"`.

    The share folder is the nearest one above the code: a source checkout, or `share/policy_node` of a pip environment
    or a colcon workspace.

    Raises
    ------
    FileNotFoundError
        When there is no share folder, or the file is not in it.
    """
    for ancestor in Path(__file__).resolve().parents:
        is_checkout = (ancestor / "resource" / _PACKAGE).is_file()
        root = ancestor if is_checkout else ancestor / "share" / _PACKAGE
        if is_checkout or root.is_dir():
            path = root.joinpath(*parts)
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist; check the name, or install {_PACKAGE} again")
            return path
    raise FileNotFoundError(
        f"no share folder of {_PACKAGE} above {__file__}; install it with `pip install .` or `colcon build`"
    )
