# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Check SDF documents against the specification of libsdformat, which has an XML file for each element."""

import re
import sys
from collections import Counter
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_TYPES = {
    "string": r".+",
    "bool": r"true|false|0|1",
    "int": r"-?\d+",
    "unsigned int": r"\d+",
    "double": _NUMBER,
    "float": _NUMBER,
    "vector2d": rf"{_NUMBER}( {_NUMBER})",
    "vector3": rf"{_NUMBER}( {_NUMBER}){{2}}",
    "color": rf"{_NUMBER}( {_NUMBER}){{2,3}}",
    "pose": rf"{_NUMBER}( {_NUMBER}){{5}}",
    "time": rf"{_NUMBER}( {_NUMBER})",
}
# Required by the specification, yet every world of Gazebo leaves them to libsdformat's defaults.
_FILLED_IN = {"atmosphere", "magnetic_field"}
# Repeated beyond the specification: a contact sensor of Gazebo has several collisions.
_REPEATED = {"/contact/collision"}
# Read by the sensors of every Gazebo since Fortress, without being in the specification.
_READ_BY_GAZEBO = {"/sensor/gz_frame_id"}


def gazebo_root() -> Path:
    """Return the root of Gazebo's tools: unpacked beside the tests' environment, or installed."""
    unpacked = Path(sys.prefix) / "gazebo"
    return unpacked if (unpacked / "usr").is_dir() else Path("/")


class Definition:
    """The specification of one element."""

    def __init__(self, node: ElementTree.Element, folder: Path, required: str | None = None) -> None:
        self._node = node
        self._folder = folder
        self.name = node.get("name", "")
        self.required = required or node.get("required", "0")
        self.type = node.get("type", "")
        self.attributes = {attribute.get("name"): attribute for attribute in node.findall("attribute")}
        self.copies_anything = node.find("element[@copy_data='true']") is not None

    @cached_property
    def children(self) -> dict[str, "Definition"]:
        """Elements that may stand inside, by name."""
        definitions = []
        for node in self._node:
            if node.tag == "include":
                # Debian's package lacks a file that it mentions.
                if (self._folder / node.get("filename", "")).is_file():
                    definitions.append(load(self._folder, node.get("filename", ""), node.get("required")))
            elif node.tag == "element" and node.get("ref"):
                definitions.append(load(self._folder, f"{node.get('ref')}.sdf", node.get("required")))
            elif node.tag == "element" and node.get("name"):
                definitions.append(Definition(node, self._folder))
        return {definition.name: definition for definition in definitions}


def load(folder: Path, filename: str, required: str | None = None) -> Definition:
    """Read the definition of an element from its file."""
    return Definition(ElementTree.parse(folder / filename).getroot(), folder, required)


def faults(element: ElementTree.Element, definition: Definition, path: str = "") -> list[str]:
    """Return the faults of an element: names, counts and values."""
    path = f"{path}/{element.tag}"
    found = []
    for name, value in element.attrib.items():
        if name not in definition.attributes:
            found.append(f"{path}: attribute {name} is unknown")
        elif not re.fullmatch(_TYPES[definition.attributes[name].get("type")], value):
            found.append(f"{path}: attribute {name} has the value {value!r}")
    for name, attribute in definition.attributes.items():
        if attribute.get("required") == "1" and name not in element.attrib:
            found.append(f"{path}: attribute {name} is missing")
    if definition.copies_anything:
        return found
    text = (element.text or "").strip()
    if definition.type and not re.fullmatch(_TYPES[definition.type], text):
        found.append(f"{path}: {text!r} is no {definition.type}")
    elif not definition.type and text:
        found.append(f"{path}: holds the text {text!r}")
    counts = Counter(child.tag for child in element)
    for name, count in counts.items():
        written = f"/{element.tag}/{name}"
        if name not in definition.children:
            if written not in _READ_BY_GAZEBO:
                found.append(f"{path}: element {name} is unknown")
        elif count > 1 and definition.children[name].required in "01" and written not in _REPEATED:
            found.append(f"{path}: element {name} stands {count} times")
    for name, child in definition.children.items():
        if child.required in ("1", "+") and name not in counts and name not in _FILLED_IN:
            found.append(f"{path}: element {name} is missing")
    for child in element:
        if child.tag in definition.children:
            found += faults(child, definition.children[child.tag], path)
    return found
