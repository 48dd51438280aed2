# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The SDF is valid by Gazebo's checker and by the specification."""

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import sdf_specification

from policy_node_rover.gazebo import sdf

ROOT = sdf_specification.gazebo_root()
DOCUMENTS = {"world": sdf.world_sdf(2, 0), "rover": sdf.rover_sdf("rover_0"), "ogre": sdf.world_sdf(1, 0, "ogre")}


@pytest.fixture(scope="module")
def specification():
    folders = sorted(ROOT.glob(f"usr/share/sdformat*/{sdf.SDF_VERSION}/root.sdf"))
    if not folders:
        pytest.skip("without the specification of SDF; test/gazebo_tools.sh can get it on Debian")
    return sdf_specification.load(folders[-1].parent, "root.sdf")


@pytest.fixture(scope="module")
def check():
    """Return a function that checks a document with Gazebo's tool and returns its output."""
    tool = shutil.which(ROOT / "ign") or shutil.which("ign")
    if tool is None:
        pytest.skip("without the command `ign sdf`; test/gazebo_tools.sh can get it on Debian")

    def run(path: Path) -> str:
        ended = subprocess.run([tool, "sdf", "-k", path], capture_output=True, text=True, check=False, timeout=60)
        return ended.stdout + ended.stderr

    return run


@pytest.mark.parametrize("name", DOCUMENTS)
def test_gazebos_checker_finds_the_documents_valid(check, name, tmp_path):
    path = tmp_path / f"{name}.sdf"
    path.write_text(DOCUMENTS[name], encoding="utf-8")
    said = check(path)
    assert "Valid." in said
    assert "Error" not in said
    assert "Warning" not in said


def test_gazebos_checker_finds_broken_structure(check, tmp_path):
    path = tmp_path / "broken.sdf"
    path.write_text(DOCUMENTS["rover"].replace("<parent>base_link</parent>", ""), encoding="utf-8")
    assert "Error" in check(path)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_element_and_attribute_is_in_the_specification(specification, name):
    assert sdf_specification.faults(ElementTree.fromstring(DOCUMENTS[name]), specification) == []


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("horizontal_fov>", "horizontal_fow>", "element horizontal_fow is unknown"),
        ("<width>64<", "<width>64.5<", "'64.5' is no int"),
        ('canonical_link="', 'canonical="', "attribute canonical is unknown"),
        ("<near>", "<near>0.1</near><near>", "element near stands 2 times"),
        ("<parent>base_link</parent>", "", "element parent is missing"),
        ('<link name="base_link">', "<link>", "attribute name is missing"),
    ],
)
def test_faults_against_the_specification_are_found(specification, right, wrong, fault):
    document = DOCUMENTS["rover"].replace(right, wrong)
    assert document != DOCUMENTS["rover"]
    assert fault in "\n".join(sdf_specification.faults(ElementTree.fromstring(document), specification))


def test_the_command_line_writes_the_documents(tmp_path, capsys):
    path = tmp_path / "world.sdf"
    assert sdf.main(["world", "--robots", "2", "--output", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == DOCUMENTS["world"]
    assert sdf.main(["rover", "rover_0"]) == 0
    assert capsys.readouterr().out == DOCUMENTS["rover"]
