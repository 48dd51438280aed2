# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Registries find message types, image encodings and command types; packages add some."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from policy_node.config.catalogue import Catalogue
from policy_node.config.registry import Registry
from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import type_named
from policy_node.messages.commands import COMMAND_TYPES, CommandChoices, CommandType
from policy_node.messages.encodings import IMAGE_ENCODINGS, KEEP, Encoding
from policy_node.messages.fields import message_class
from policy_node.messages.types import CHOICES, MESSAGE_TYPES, PATHS, MessageType
from policy_node.messages.types.images import Converter, wanted_encoding

EXAMPLE = Path(__file__).parents[1] / "example_messages"


@pytest.mark.parametrize("kind", MESSAGE_TYPES.values(), ids=lambda kind: kind.name)
def test_a_message_type_says_what_it_takes_and_gives(kind: MessageType) -> None:
    assert kind.gives and kind.count and kind.takes <= set(CHOICES)
    # Images give pixels, everything else numbers.
    assert kind.is_image is ("encoding" in kind.takes)


NUMBERS = ("Bool", *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)), "Float32", "Float64")


def fields_of(type_name: str) -> tuple[str, ...]:
    """Return two fields of a type that is written by fields."""
    parts = {"Twist": ("linear.x", "angular.z"), "Pose": ("position.x", "orientation.z")}
    return next((fields for part, fields in parts.items() if part in type_name), ("speed", "steering_angle"))


@pytest.mark.parametrize("kind", COMMAND_TYPES.values(), ids=lambda kind: kind.name)
def test_a_command_that_was_encoded_is_read_back(kind: CommandType) -> None:
    if kind.name.startswith("ackermann_msgs"):
        pytest.importorskip("ackermann_msgs")
    command = [1.0, -2.0]
    names = {"fields": fields_of(kind.name), "joints": ("a", "b"), "": ()}[kind.named_by]
    if kind.name.removeprefix("std_msgs/msg/") in NUMBERS:
        command = [1.0]
    choices = CommandChoices(len(command), time_from_start_s=0.5, **({kind.named_by: names} if names else {}))
    message_type = message_class(kind.name)
    message = kind.make(message_type, choices)(np.array(command), 12)
    assert kind.source(message_type, choices).numbers(message).tolist() == command


def test_a_type_without_a_record_is_read_by_paths() -> None:
    kind = type_named("geometry_msgs/msg/PointStamped")
    assert kind.takes == PATHS == {"field", "fields", "padding"} and not kind.is_image


def test_a_mosaic_is_converted_before_it_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resizing a mosaic would mix its colours."""
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 2] = 200
    mosaic = np.zeros((8, 8, 1), np.uint8)
    # Red stands at every second pixel of every second row.
    mosaic[::2, ::2, 0] = 200
    bayer = Encoding("bayer_rggb8", np.dtype(np.uint8), 1, codes={"BGR": cv2.COLOR_BayerBG2BGR})
    assert bayer.code_to(IMAGE_ENCODINGS["bgr8"]) == cv2.COLOR_BayerBG2BGR
    assert bayer.code_to(IMAGE_ENCODINGS["16UC1"]) is None and bayer.code_to(IMAGE_ENCODINGS["rgb8"]) is None
    monkeypatch.setitem(IMAGE_ENCODINGS._records, "bayer_rggb8", bayer)
    converter = Converter("bgr8", ArraySpec("seen", (4, 4, 3), np.uint8, 0, 255))
    out = np.zeros((4, 4, 3), np.uint8)
    converter(mosaic, "bayer_rggb8", out)
    assert np.array_equal(out, colour[:4, :4])


def test_encodings_of_one_colour_space_are_the_same_pixels() -> None:
    alias = Encoding("8UC3", np.dtype(np.uint8), 3, "BGR")
    assert alias.code_to(IMAGE_ENCODINGS["bgr8"]) == KEEP
    assert alias.code_to(IMAGE_ENCODINGS["rgb8"]) == cv2.COLOR_BGR2RGB
    assert Encoding("RGB", np.dtype(np.float64), 3, "RGB").code_to(IMAGE_ENCODINGS["rgb8"]) is None


@pytest.mark.parametrize(
    ("dtype", "channels", "default"),
    [
        ("uint8", 3, "rgb8"),
        ("uint8", 4, "rgba8"),
        ("uint8", 1, "mono8"),
        ("uint16", 1, "16UC1"),
        ("uint16", 3, "rgb16"),
        ("float32", 1, "32FC1"),
    ],
)
def test_a_module_that_comes_first_does_not_change_the_default_encoding(
    monkeypatch: pytest.MonkeyPatch, dtype: str, channels: int, default: str
) -> None:
    first = Encoding("another", np.dtype(dtype), channels, "HSV")
    monkeypatch.setattr(IMAGE_ENCODINGS, "_records", {"another": first, **IMAGE_ENCODINGS._records})
    spec = ArraySpec("seen", (4, 4, channels), dtype, 0, 255)
    assert wanted_encoding(spec, "", tuple(IMAGE_ENCODINGS)) == default


def test_each_kind_of_pixels_has_one_default_encoding() -> None:
    defaults = [(found.dtype, found.channels) for found in IMAGE_ENCODINGS.values() if found.is_default]
    assert len(defaults) == len(set(defaults))
    kinds = {(found.dtype, found.channels) for found in IMAGE_ENCODINGS.values() if not found.is_mosaic}
    assert set(defaults) == kinds


def test_a_name_that_two_modules_define_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[Encoding] = Registry("policy_node.messages.encodings", "IMAGE_ENCODINGS", "policy_node.none")
    # Both names lead to the same file.
    monkeypatch.setitem(vars(registry), "names", ("colours", "colours"))
    with pytest.raises(ValueError, match="'rgb8' is defined twice"):
        Catalogue(registry)["rgb8"]


# Uses the records of the example package as any user of the node does, and prints what came out.
USE = """
import json, sys
import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from geometry_msgs.msg import PointStamped, Vector3
from sensor_msgs.msg import Image
from policy_node.config.schema import ConfigurationError, parse_configuration
from policy_node.config.catalogue import COMMAND_TYPES
from policy_node.config.parameters import PARAMETERS
from policy_node.messages.codecs import command_encoder, reading_decoder
from policy_node.config.specs import ArraySpec

values = json.loads(sys.argv[1])
configuration = parse_configuration(values)
point, image = configuration.observations
spec = ArraySpec(point.key, (2,), "float32", -10, 10)
decoder = reading_decoder(point.type, spec, topic=point.topic)
row = np.zeros(2, np.float32)
message = PointStamped()
message.point.x, message.point.y = 3.0, 4.0
decoder.decode(serialize_message(message), row)

pixels = ArraySpec(image.key, (2, 2, 1), "uint8", 0, 255)
seen = np.zeros((2, 2, 1), np.uint8)
inverted = Image(height=2, width=2, encoding="inverted8", step=2, data=bytes([0, 1, 254, 255]))
reading_decoder(image.type, pixels, topic="camera", encoding=image.encoding).decode(serialize_message(inverted), seen)

encode = command_encoder(configuration.action.type, 3, time_from_start_s=0.1)
command = encode(np.array([1.0, 2.0, 3.0]), 0)
try:
    parse_configuration({**values, "action.joints": ["a", "b", "c"]})
    refused = ""
except ConfigurationError as error:
    refused = str(error)
allowed = {parameter.name: list(parameter.allowed) for parameter in PARAMETERS}
print(json.dumps({
    "row": row.tolist(),
    "seen": seen.ravel().tolist(),
    "command": [command.x, command.y, command.z],
    "refused": refused,
    "allowed": [list(COMMAND_TYPES), allowed["observations.<key>.encoding"]],
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the example package is installed."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    source, site = str(folder / "source"), str(folder / "site")
    subprocess.run([*pip, "--no-build-isolation", "--target", site, source], check=True, timeout=300)
    return folder / "site"


def test_another_package_adds_a_message_type_an_encoding_and_a_command_type(installed: Path) -> None:
    """The package has one file with three records and names them in its entry points."""
    values = {
        "control_rate_hz": 10.0,
        "robots": ["arm"],
        "policy.path": "policy.zip",
        "observations.keys": ["range", "camera"],
        "observations.range.topic": "point",
        "observations.range.type": "geometry_msgs/msg/PointStamped",
        "observations.camera.topic": "camera",
        "observations.camera.type": "sensor_msgs/msg/Image",
        "observations.camera.encoding": "inverted8",
        "synchronisation.slop_s": 0.05,
        "synchronisation.max_age_s": 0.2,
        "action.topic": "push",
        "action.type": "geometry_msgs/msg/Vector3",
        "action.safe_command": [0.0, 0.0, 0.0],
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.run(
        [sys.executable, "-c", USE, json.dumps(values)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    # Distance and bearing of the point.
    assert result["row"] == pytest.approx([5.0, np.arctan2(4.0, 3.0)])
    assert result["seen"] == [0, 1, 254, 255]
    assert result["command"] == [1.0, 2.0, 3.0]
    assert "action.joints: given for a geometry_msgs/msg/Vector3; only sensor_msgs/msg/JointState" in result["refused"]
    command_types, encodings = result["allowed"]
    assert "geometry_msgs/msg/Vector3" in command_types and "inverted8" in encodings


def test_without_the_package_its_names_are_refused() -> None:
    assert "geometry_msgs/msg/Vector3" not in COMMAND_TYPES and "inverted8" not in IMAGE_ENCODINGS
