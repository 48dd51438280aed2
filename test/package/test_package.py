# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The package's own files agree with each other and with the code."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import policy_node
from policy_node.config.package_files import share_path

ROOT = Path(__file__).resolve().parents[2]
SETUP = (ROOT / "setup.py").read_text()
CONSTRAINTS = (ROOT / "constraints-common.txt").read_text()
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()

# What the code imports under one name is called otherwise by rosdep and by PyPI.
ROSDEP_KEYS = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "google": "python3-protobuf",
    "gymnasium": "python3-gymnasium-pip",
    "matplotlib": "python3-matplotlib",
    "mujoco": "python3-mujoco-pip",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "psutil": "python3-psutil",
    "rich": "python3-rich",
    "rosbags": "python3-rosbags-pip",
    "sb3_contrib": "python3-sb3-contrib-pip",
    "stable_baselines3": "python3-stable-baselines3-pip",
    "torch": "python3-pytorch-pip",
    "yaml": "python3-yaml",
}
PYPI_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "google": "protobuf",
    "pynvml": "nvidia-ml-py",
    "sb3_contrib": "sb3-contrib",
    "stable_baselines3": "stable-baselines3",
    "yaml": "pyyaml",
}
# Imported by the example robot, the benchmarks and the extras only, which rosdep does not bring onto a robot.
NOT_ON_A_ROBOT = {"PIL", "matplotlib", "mujoco", "psutil", "rosbags", "sb3_contrib"}
# Installed with pip, as the manifest says.
WITHOUT_ROSDEP_KEY = {"onnx", "onnxscript", "safetensors"}
# Only with an extra of setup.py.
WITH_AN_EXTRA = {"aiohttp", "draccus", "lerobot", "minari", "pynvml", "transformers"}
# Part of every ROS installation, but not on PyPI.
WITHOUT_WHEEL = {"launch", "launch_ros"}


def manifest_values(tag: str) -> list[str]:
    return [element.text or "" for element in MANIFEST.findall(tag)]


def imported_modules() -> list[str]:
    """Return the top-level names of everything outside the standard library that the shipped code imports."""
    found = set()
    for file in [*ROOT.glob("policy_node*/**/*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").split(".")[0])
    return sorted(found - sys.stdlib_module_names - {"policy_node", "policy_node_bench", "policy_node_rover"})


def test_one_version_everywhere():
    in_setup = re.search(r'version="([^"]+)"', SETUP)
    in_changelog = re.search(
        r"^(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE
    )
    assert in_setup and in_changelog
    versions = {policy_node.__version__, in_setup[1], in_changelog[1], *manifest_values("version")}
    assert len(versions) == 1


def test_manifest_is_that_of_an_ament_python_package():
    assert MANIFEST.get("format") == "3"
    assert manifest_values("name") == ["policy_node"]
    assert manifest_values("license") == ["Apache-2.0"]
    assert manifest_values("export/build_type") == ["ament_python"]
    assert "python3-pytest" in manifest_values("test_depend")
    tags = {element.tag for element in MANIFEST}
    assert {tag for tag in tags if tag.endswith("depend")} == {"exec_depend", "test_depend"}
    assert (ROOT / "resource" / "policy_node").is_file()


@pytest.mark.parametrize("module", imported_modules())
def test_every_import_is_declared_for_rosdep_and_for_pip(module):
    if module in WITHOUT_ROSDEP_KEY:
        assert module in (ROOT / "package.xml").read_text()
    elif module not in WITH_AN_EXTRA:
        needs = "test_depend" if module in NOT_ON_A_ROBOT else "exec_depend"
        assert ROSDEP_KEYS.get(module, module) in manifest_values(needs)
    is_ros_package = module not in {*ROSDEP_KEYS, *WITHOUT_ROSDEP_KEY, *WITH_AN_EXTRA}
    pypi_name = f"ros-{module.replace('_', '-')}" if is_ros_package else PYPI_NAMES.get(module, module)
    is_base = not is_ros_package and module not in NOT_ON_A_ROBOT | WITH_AN_EXTRA
    declared = SETUP.partition("install_requires=")[2].partition("]")[0] if is_base else SETUP
    assert module in WITHOUT_WHEEL or re.search(rf"""["']{pypi_name}[">=[]""", declared)


@pytest.mark.parametrize("distribution, pin", [("jazzy", "numpy<2\n"), ("kilted", "numpy<2\n"), ("lyrical", "")])
@pytest.mark.parametrize("page", ["doc/getting_started.md", "doc/onboard.md", "deploy/Dockerfile"])
def test_numpy_is_kept_below_2_where_the_messages_need_it(
    tmp_path: Path, page: str, distribution: str, pin: str
) -> None:
    (written,) = re.findall(r"case .* esac > \S+", (ROOT / page).read_text())
    folder = tmp_path / "venv"
    folder.mkdir()
    variables = {"DISTRO": distribution, "ROS_DISTRO": distribution, "VIRTUAL_ENV": str(folder)}
    subprocess.run(["bash", "-c", written], cwd=tmp_path, env={**os.environ, **variables}, check=True)
    assert (folder / "constraints.txt").read_text() == pin


def test_every_pinned_version_can_be_installed_with_the_oldest_python() -> None:
    oldest = "3.10.0"
    installed = {canonicalize_name(found.name): found for found in importlib.metadata.distributions()}
    pins = [Requirement(line) for line in CONSTRAINTS.splitlines() if line and line[0] not in "#-"]
    for pin in pins:
        found = installed.get(canonicalize_name(pin.name))
        python = SpecifierSet((found and found.metadata.get("Requires-Python")) or "")
        applies = pin.marker is None or pin.marker.evaluate({"python_version": "3.10"})
        assert not applies or oldest in python, f"{pin}: needs Python {python}; mark it with python_version"


def test_the_core_and_the_training_import_no_ros():
    modules = [
        *(
            "policy_node.control.pipeline",
            "policy_node.control.timing",
            "policy_node.policies",
            "policy_node.config.schema",
        ),
        *("policy_node_rover.mujoco.environment", "policy_node_rover.training.cli"),
    ]
    script = (
        "import importlib, sys\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(module)\n"
        "    if 'rclpy' in sys.modules: sys.exit(f'{module} imports rclpy')\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr


EXECUTABLES = re.findall(r'"(\w+) = ([\w.]+\.executables):(\w+)"', SETUP)


@pytest.mark.slow
@pytest.mark.parametrize("name, module, function", EXECUTABLES)
def test_every_executable_explains_itself(name, module, function):
    script = f"import sys; from {module} import {function}; sys.exit({function}())"
    run = subprocess.run([sys.executable, "-c", script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "usage" in run.stdout.lower(), name


@pytest.mark.parametrize(
    "name, module, remedy",
    [
        pytest.param("policy_replay", "rosbags", "pip install rosbags", marks=pytest.mark.slow),
        ("rover_sim", "mujoco", 'pip install ".[rover]"'),
        ("policy_monitor", "rclpy", 'pip install ".[ros]"'),
    ],
)
def test_an_executable_names_what_it_lacks(name: str, module: str, remedy: str) -> None:
    # As if the module were not installed.
    hidden = (
        "class Hidden:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == '{module}': raise ModuleNotFoundError(name, name=name)\n"
    )
    package = "policy_node_rover" if name == "rover_sim" else "policy_node.cli"
    script = f"import sys\n{hidden}sys.meta_path.insert(0, Hidden())\nfrom {package} import executables\n"
    run = subprocess.run(
        [sys.executable, "-c", f"{script}sys.exit(executables.{name}())"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.startswith(f"{name} needs {module}, which is not installed; ") and remedy in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_an_executable_ends_quietly_when_it_is_interrupted_while_it_loads(tmp_path: Path) -> None:
    # In place of what takes long to import, and makes an error of its own of an interruption.
    interrupted = "try:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt:\n    raise ImportError\n"
    (tmp_path / "torch.py").write_text(f"import os, signal\n{interrupted}")
    script = "import sys; from policy_node_rover.executables import policy_train; sys.exit(policy_train())"
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, b"", b"")


def test_no_test_module_skips_itself_while_it_is_imported() -> None:
    """The pytest plugin of launch_testing, which comes with ROS, would end the collection of all tests there."""
    skips = ("importorskip", "skip", "exit")
    for file in (ROOT / "test").rglob("*.py"):
        for statement in ast.parse(file.read_text()).body:
            if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                calls = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
                names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
                assert not names.intersection(skips), f"{file}:{statement.lineno}: use a mark or a fixture"


def licensed_files() -> list[Path]:
    folders = ["policy_node", "policy_node_rover", "policy_node_bench", "launch", "config", "deploy", "test", ".ci"]
    inside = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in {".py", ".yaml", ""}]
    top = [ROOT / name for name in ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "Makefile")]
    top += ROOT.glob("constraints*.txt")
    return [file for file in inside + top if file.is_file() and "__pycache__" not in file.parts]


@pytest.mark.parametrize("file", licensed_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_names_its_licence(file):
    head = file.read_text().splitlines()[:5]
    assert any("Copyright 2026 The policy_node authors" in line for line in head)
    assert any("SPDX-License-Identifier: Apache-2.0" in line for line in head)


@pytest.mark.parametrize(
    "code_folder, share_folder",
    [
        ("policy_node", "."),
        (".venv/lib/python3.11/site-packages/policy_node", ".venv/share/policy_node"),
        ("local/lib/python3.12/dist-packages/policy_node", "local/share/policy_node"),
    ],
    ids=["checkout", "pip or colcon", "Debian"],
)
def test_shipped_files_are_found_beside_the_code(tmp_path, code_folder, share_folder):
    """The code of each layout finds its own files, also when a checkout lies further up."""
    (tmp_path / "resource").mkdir()
    (tmp_path / "resource" / "policy_node").touch()
    (tmp_path / share_folder / "config").mkdir(parents=True)
    (tmp_path / share_folder / "config" / "rover.yaml").touch()
    (tmp_path / code_folder).mkdir(parents=True)
    copy = shutil.copy(ROOT / "policy_node" / "config" / "package_files.py", tmp_path / code_folder)
    spec = importlib.util.spec_from_file_location("share_of_this_layout", copy)
    assert spec and spec.loader
    share = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(share)

    assert share.share_path("config", "rover.yaml") == tmp_path / share_folder / "config" / "rover.yaml"
    with pytest.raises(FileNotFoundError, match=r"missing\.yaml does not exist"):
        share.share_path("config", "missing.yaml")


@pytest.mark.parametrize(
    "parts",
    [("package.xml",), ("config", "rover.yaml"), ("config", "foxglove_layout.json"), ("launch", "demo.launch.py")],
)
def test_the_installed_package_finds_its_own_files(parts):
    assert share_path(*parts).is_file()


def test_the_foxglove_layout_shows_panels_that_exist_and_topics_of_the_demonstration() -> None:
    layout = json.loads(share_path("config", "foxglove_layout.json").read_text())
    panels = layout["configById"]

    def shown(tree: Any) -> list[str]:
        return [tree] if isinstance(tree, str) else [*shown(tree["first"]), *shown(tree["second"])]

    assert sorted(shown(layout["layout"])) == sorted(panels)
    configuration = yaml.safe_load(share_path("config", "rover.yaml").read_text())["/**"]["ros__parameters"]
    image = configuration["observations"]["image"]["topic"]
    images = {panel["imageMode"]["imageTopic"] for name, panel in panels.items() if name.startswith("Image!")}
    assert images == {f"/{robot}/{image}" for robot in configuration["robots"]}
