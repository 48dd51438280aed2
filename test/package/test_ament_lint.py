# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The linters that package.xml declares pass. They come with ROS; `make lint` checks more with ruff and mypy."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [str(ROOT / name) for name in ("policy_node", "policy_node_rover", "policy_node_bench")]
SOURCES = [*FOLDERS, str(ROOT / "launch"), str(ROOT / "setup.py")]


def test_flake8() -> None:
    flake8 = pytest.importorskip("ament_flake8.main")
    assert flake8.main(["--config", str(ROOT / "setup.cfg"), *SOURCES]) == 0


def test_pep257() -> None:
    pep257 = pytest.importorskip("ament_pep257.main")
    # D401 does not know cached properties, the others take an attribute `notes` for a section; ruff checks them all.
    ignored = ["D401", "D405", "D407", "D410", "D411"]
    assert pep257.main([*FOLDERS, "--convention", "numpy", "--add-ignore", *ignored]) == 0


def test_copyright(monkeypatch: pytest.MonkeyPatch) -> None:
    main = pytest.importorskip("ament_copyright.main")
    parser = pytest.importorskip("ament_copyright.parser")
    # ament_copyright knows the long headers only.
    spdx = SimpleNamespace(
        name="Apache License, Version 2.0",
        spdx="Apache-2.0",
        file_headers=["SPDX-License-Identifier: Apache-2.0"],
        license_files=[],
        contributing_files=[],
    )
    known = parser.get_licenses()
    monkeypatch.setattr(parser, "get_licenses", lambda: {"apache2_spdx": spdx, **known})
    assert main.main(SOURCES) == 0


def test_xmllint() -> None:
    xmllint = pytest.importorskip("ament_xmllint.main")
    if shutil.which("xmllint") is None:
        pytest.skip("needs xmllint")
    assert xmllint.main([str(ROOT / "package.xml")]) == 0
