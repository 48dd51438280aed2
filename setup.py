# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Packaging for pip and for colcon (ament_python): `pip install .` and `colcon build` install the same files."""

from glob import glob

from setuptools import find_packages, setup

package_name = "policy_node"

# The ROS 2 client library, middleware and messages as PyPI wheels, for machines without a ROS installation.
ros = [
    "ros-rclpy",
    "ros-rmw-fastrtps-cpp",
    "ros-ament-index-python",
    "ros-builtin-interfaces",
    "ros-diagnostic-msgs",
    "ros-geometry-msgs",
    "ros-lifecycle-msgs",
    "ros-nav-msgs",
    "ros-rcl-interfaces",
    "ros-rosgraph-msgs",
    "ros-sensor-msgs",
    "ros-std-msgs",
    "ros-std-srvs",
    "ros-trajectory-msgs",
]

# The example robot: its arena in MuJoCo, training and demonstration.
rover = ["mujoco>=3.5", "matplotlib", "pillow", "psutil", "sb3-contrib>=2.8", "tensorboard"]

# Benchmarks, chaos tests and fuzzers; they drive the example robot.
bench = [*rover]

# For policies of RecurrentPPO, MaskablePPO, TRPO, TQC, CrossQ, QRDQN and ARS.
contrib = ["sb3-contrib>=2.8"]

# For folders of LeRobot's policies, and to export them; robots run the exported ONNX files with onnxruntime alone.
lerobot = [
    'lerobot[diffusion,smolvla]>=0.6,<0.7; python_version >= "3.12"',
    'draccus>=0.10; python_version >= "3.12"',
    'transformers>=4.57; python_version >= "3.12"',
]

# Bags and recordings: read, replayed and written without a ROS installation; and datasets made of them.
# The recorder and the replay use parts of rosbags that it does not document.
bags = ["rosbags>=0.11,<0.12"]
dataset = [*bags, "minari[hdf5]>=0.5"]

# The page of the fleet, `policy_monitor --web`. Only youplot 1.0.0 is known to carry uPlot unchanged, see index.html.
web = ["aiohttp>=3.9", "youplot==1.0.0"]

# Linters, types and tests; those of the page in a browser need Chromium, too.
test = ["hypothesis", "import-linter", "mypy", "playwright", "pytest", "pytest-rerunfailures", "pytest-xdist", "ruff"]

# Mutation tests, `make mutants`.
mutants = ["mutmut>=3.8"]

# Utilisation of the GPU in diagnostics.
gpu = ["nvidia-ml-py"]

# The documentation, `make docs`.
docs = ["myst-parser", "sphinx", "sphinx-rtd-theme"]

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(include=["policy_node*"]),
    package_data={"policy_node.cli.web": ["static/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
        *(
            (f"share/{package_name}/{folder}", sorted(glob(f"{folder}/*.*")))
            for folder in ("launch", "config", "config/sros2", "models")
        ),
    ],
    python_requires=">=3.10",
    install_requires=[
        "setuptools",
        "gymnasium>=0.29",
        "numpy>=1.26",
        # The engine of most policies on a CPU, and ONNX files; for those on a GPU, doc/onboard.md has onnxruntime-gpu.
        "onnx>=1.17",
        "onnxruntime>=1.20",
        "onnxscript>=0.5",
        # The headless build of OpenCV: the other one does not import on a machine without libGL.
        "opencv-python-headless>=4.8",
        "protobuf",
        "pyyaml",
        "rich",
        "safetensors>=0.4.3",
        "stable-baselines3>=2.8",
        "torch>=2.8",
    ],
    extras_require={
        "ros": ros,
        "rover": rover,
        "bench": bench,
        "contrib": contrib,
        "lerobot": lerobot,
        "bags": bags,
        "dataset": dataset,
        "gpu": gpu,
        "docs": docs,
        "mutants": mutants,
        "test": [*contrib, *dataset, *web, *test],
        "web": web,
    },
    zip_safe=True,
    maintainer="The policy_node authors",
    maintainer_email="policy_node@example.org",
    description="One learned policy drives a fleet of robots over ROS 2: synchronised sensors in, commands out",
    license="Apache-2.0",
    url="https://example.org/policy_node",
    entry_points={
        "console_scripts": [
            "policy_node = policy_node.cli.executables:policy_node",
            "rover_sim = policy_node_rover.executables:rover_sim",
            "gazebo_watch = policy_node_rover.executables:gazebo_watch",
            "policy_train = policy_node_rover.executables:policy_train",
            "policy_export = policy_node.cli.executables:policy_export",
            "policy_demo = policy_node_rover.executables:policy_demo",
            "policy_bench = policy_node_bench.executables:policy_bench",
            "policy_ctl = policy_node.cli.executables:policy_ctl",
            "policy_monitor = policy_node.cli.executables:policy_monitor",
            "policy_replay = policy_node.cli.executables:policy_replay",
        ],
        "policy_node.message_types": ["irobot_create = policy_node.messages.adapters.hazards:MESSAGE_TYPES"],
    },
)
