# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Describe a command of `policy_bench`: options as dataclass fields, figures on the screen and in files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, RenderableType

from policy_node.cli.output import check_file
from policy_node.report.figures import SubParsers, write_figures

# The features extractor of Stable-Baselines3 needs this many pixels.
SMALLEST_IMAGE_PX = 36

Figures = Mapping[str, Any]


def option(default: Any, help: str, flag: str = "", **settings: Any) -> Any:
    """Return a dataclass field that is an option of the command line.

    `default` is parsed by `type`, if it is a text and there is one; the help shows it unless it is empty or False.
    `flag` is by default the name of the field; without dashes the option is given by its place. `settings` are arguments of `argparse.ArgumentParser.add_argument`.
    """
    shown = "" if default in ("", False, ()) or settings.get("required") else " (default %(default)s)"
    settings |= {"help": help + shown, "default": [] if settings.get("action") == "append" else default}
    value = settings["type"](default) if "type" in settings and isinstance(default, str) and default else default
    return field(default=value, metadata={"flag": flag, "settings": settings})


Writer = Callable[[Figures, Path], None]


def plot_option(function: str) -> dict[str, tuple[str, Writer]]:
    """Return the option `--plot`, drawn by a function of `plots`, which imports Matplotlib only then."""

    def draw(figures: Figures, file: Path) -> None:
        getattr(import_module("policy_node_bench.plots"), function)(figures, file)

    return {"plot": ("draw the figures into this image file", draw)}


class Command(NamedTuple):
    """A command of `policy_bench`."""

    # Texts on the command line.
    name: str
    help: str
    description: str
    # Dataclass whose fields are made by `option`.
    options: type
    # Returns the figures, which the JSON file contains. Raises ToolError if a process fails, a model does not fit or an
    # option cannot be used. The exit status is 1 if `figures["violations"]` is not 0.
    measure: Callable[[Any, Console], dict[str, Any]]
    # Returns tables and texts of the figures, to print.
    show: Callable[[Figures], Iterable[RenderableType]]
    # Further options that name a file, with the help text and the function that writes the file.
    writers: Mapping[str, tuple[str, Writer]] = {}

    def add_parser(self, subparsers: SubParsers) -> None:
        """Add the command to a command line; `run` of the parsed arguments runs it."""
        parser = subparsers.add_parser(self.name, help=self.help, description=self.description)
        for each in fields(self.options):
            flag = each.metadata["flag"] or "--" + each.name.replace("_", "-")
            named = {"dest": each.name} if flag.startswith("-") else {}
            parser.add_argument(flag, **named, **each.metadata["settings"])
        for name, (text, _) in {**_JSON, **self.writers}.items():
            parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"{text} (default: none)")
        parser.set_defaults(run=self.run)

    def run(self, given: argparse.Namespace) -> int:
        """Measure, print the result, write the files and return the exit status.

        Raises
        ------
        ToolError
            If the measurement is not possible.
        SystemExit
            If a file cannot be written.
        """
        writers = {name: write for name, (_, write) in {**_JSON, **self.writers}.items() if getattr(given, name)}
        for name in writers:
            check_file(f"policy_bench {self.name}: --{name}", getattr(given, name))
        console = Console()
        options = self.options(**{each.name: getattr(given, each.name) for each in fields(self.options)})
        figures = self.measure(options, console)
        for part in self.show(figures):
            console.print(part, highlight=False)
        for name, write in writers.items():
            write(figures, getattr(given, name))
            console.print(f"{name}: {getattr(given, name)}", highlight=False)
        return int(bool(figures.get("violations")))


_JSON: Mapping[str, tuple[str, Writer]] = {
    "json": ("write the figures to this file", lambda figures, file: write_figures(file, figures))
}


def image_size(text: str) -> tuple[int, int]:
    """Parse `S` or `WxH`."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"found '{text}'; give S or WxH in pixels, such as 64 or 640x480")
    width, height = int(parts[0]), int(parts[-1])
    if min(width, height) < SMALLEST_IMAGE_PX:
        raise argparse.ArgumentTypeError(
            f"found '{text}'; the network needs at least {SMALLEST_IMAGE_PX} pixels each way"
        )
    return width, height


def counts(text: str) -> tuple[int, ...]:
    """Parse whole numbers above 0, separated by commas, and return them in ascending order."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"found '{text}'; give whole numbers above 0, such as 1,4,16,64")
    return tuple(sorted({int(part) for part in parts}))
