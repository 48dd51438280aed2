# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the results of the demonstration: an animation, histograms and a summary; independent of ROS."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from policy_node.control.timing import percentiles
from policy_node.report.animation import BACKGROUND, FAINT, PRESSED, TEXT, draw_header, font, save_animation
from policy_node.report.plots import STYLE

GRID_PX = 384
GAP_PX = 16
HEADER_PX = 64
FRAME_MS = 125
COLOURS = 96
MAX_GIF_BYTES = 6_000_000
# A decoded or a serialised image.
Picture = TypeVar("Picture")
# The border of a rover's images is highlighted for this time after a press.
HIGHLIGHT_S = 1.0

OUTPUT_FILES = ("summary.json", "latency.png", "fleet.gif")
TIMING_FIGURES = ("lateness_ms", "tick_ms", "stamp_to_command_ms")


@dataclass(frozen=True, eq=False)
class Frame(Generic[Picture]):
    """Images and presses at one moment; an image is uint8 [height, width, 3], or None before the first one.

    The overview shows all arenas from above, row by row in a square grid.
    """

    time_s: float
    cameras: Sequence[Picture | None]
    overview: Picture | None
    presses: Sequence[int]


@dataclass(frozen=True, eq=False)
class Recording:
    """Figures and images of a measurement."""

    robots: tuple[str, ...]
    elapsed_s: float
    ticks: int
    missed_ticks: int
    presses: tuple[int, ...]
    # float64 [ticks, 2 + robots]: lateness, duration of the tick, age of each robot's data at its command (NaN if the
    # robot was not ready).
    timing_ms: np.ndarray
    cpu_percent: dict[str, float]  # by process; 100 is one core
    about: dict[str, Any]  # more figures for the summary, such as device and policy
    frames: list[Frame[np.ndarray]] = field(repr=False)

    def timing_figures(self) -> dict[str, np.ndarray]:
        """Return the finite times in milliseconds by name, one-dimensional."""
        columns = (self.timing_ms[:, 0], self.timing_ms[:, 1], self.timing_ms[:, 2:].ravel())
        return {name: values[np.isfinite(values)] for name, values in zip(TIMING_FIGURES, columns, strict=True)}


def summarise(recording: Recording) -> dict[str, Any]:
    """Return the content of `summary.json`; times without values are None."""
    summary: dict[str, Any] = {
        "robots": len(recording.robots),
        "duration_s": round(recording.elapsed_s, 2),
        "rate_hz": round(recording.ticks / recording.elapsed_s, 2) if recording.elapsed_s > 0 else None,
        "ticks": recording.ticks,
        "missed_ticks": recording.missed_ticks,
        "presses": sum(recording.presses),
        "robots_that_pressed": sum(presses > 0 for presses in recording.presses),
        "presses_by_robot": dict(zip(recording.robots, recording.presses, strict=True)),
    }
    for name, values in recording.timing_figures().items():
        p50, p99 = percentiles(values)
        summary[name] = {key: None if math.isnan(p) else round(p, 3) for key, p in (("p50", p50), ("p99", p99))}
    return summary | {f"{name}_cpu_percent": value for name, value in recording.cpu_percent.items()} | recording.about


def write_report(recording: Recording, folder: Path) -> list[Path]:
    """Write summary, histograms and, if there are frames, the animation; return their paths."""
    files = [folder / name for name in OUTPUT_FILES]
    files[0].write_text(json.dumps(summarise(recording), indent=2) + "\n")
    plot_latency(recording, files[1])
    if not recording.frames:
        return files[:2]
    draw_fleet(recording, files[2])
    return files


def plot_latency(recording: Recording, file: Path) -> None:
    """Plot histograms of tick time, stamp to command and lateness."""
    summary, about = summarise(recording), recording.about
    comb = ""
    if about.get("sensor_rate_hz") and about.get("control_rate_hz"):
        # The ages have several peaks.
        comb = f"\n(a comb: cameras at {about['sensor_rate_hz']:g} Hz, ticks at {about['control_rate_hz']:g} Hz)"
    panels = (
        ("tick_ms", "tick: from its start to the last command", "ticks"),
        ("stamp_to_command_ms", f"stamp of the oldest reading to its command{comb}", "commands"),
        ("lateness_ms", "lateness: from the deadline to the tick", "ticks"),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        figure.suptitle(
            f"{summary['robots']} robots, {summary['ticks']} ticks in {summary['duration_s']:.0f} s, "
            f"{summary['missed_ticks']} missed; node: {recording.cpu_percent.get('node', math.nan):.0f} % of a core"
        )
        for axes, (name, title, counted) in zip(figure.subplots(1, 3), panels, strict=True):
            axes.set(title=title, xlabel="ms", ylabel=counted)
            values = recording.timing_figures()[name]
            if not values.size:
                continue
            p50, p99 = percentiles(values)
            # Outliers count in the last bar, so that they do not stretch the axis.
            limit = max(1.5 * p99, 1e-3)
            axes.hist(np.clip(values, 0.0, limit), bins=60, range=(0.0, limit))
            for percentile, colour, label in ((p50, "C1", "p50"), (p99, "C5", "p99")):
                axes.axvline(percentile, color=colour, label=f"{label} {percentile:.2f} ms")
            axes.legend(loc="upper right")
        figure.savefig(file, dpi=110)


def animation_speed(frames: Sequence[Frame[np.ndarray]]) -> float:
    """Return the speed of the animation relative to real time."""
    if len(frames) < 2:
        return 1.0
    return (frames[-1].time_s - frames[0].time_s) / (len(frames) - 1) * 1e3 / FRAME_MS


def draw_fleet(recording: Recording, file: Path) -> None:
    """Draw the animation: camera images on the left, arenas from above on the right."""
    painter = _Painter(recording)
    pictures = [painter.paint(frame) for frame in recording.frames]
    durations_ms = [FRAME_MS] * len(pictures)
    save_animation(pictures, durations_ms, file, colours=COLOURS, most_bytes=MAX_GIF_BYTES)


class _Painter:
    """Paint the frames of the animation in order, as a press is highlighted for a while."""

    def __init__(self, recording: Recording) -> None:
        count = len(recording.robots)
        rate_hz = recording.about.get("control_rate_hz", 0.0)
        self._title = f"one policy, {count} rover{'s' if count > 1 else ''}" + (f", {rate_hz:g} Hz" if rate_hz else "")
        speed = f"{animation_speed(recording.frames):.2g}"
        self._speed = "" if speed == "1" else f"{speed}x speed   "
        self._columns = math.ceil(math.sqrt(count))
        self._rows = math.ceil(count / self._columns)
        self._cell_px = GRID_PX // self._columns
        self._label_font = font(min(13, max(8, self._cell_px // 9)), bold=True)
        # Small cells show only the number, and in an arena a label must not hide a beacon.
        numbers = [name.rpartition("_")[2] for name in recording.robots]
        self._camera_labels = recording.robots if self._cell_px >= 90 else numbers
        self._arena_labels = recording.robots if self._cell_px >= 150 else numbers
        self._pressed_at_s = [-math.inf] * count
        self._presses = [0] * count

    def paint(self, frame: Frame[np.ndarray]) -> Image.Image:
        """Paint a frame."""
        width = 2 * self._columns * self._cell_px + 3 * GAP_PX
        height = HEADER_PX + self._rows * self._cell_px + GAP_PX
        picture = Image.new("RGB", (width, height), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        left, right = GAP_PX, 2 * GAP_PX + self._columns * self._cell_px
        total = sum(frame.presses)
        status = f"{self._speed}{total} beacon{'' if total == 1 else 's'} pressed   {frame.time_s:5.1f} s"
        draw_header(draw, left, width - GAP_PX, self._title, "", status)
        draw.text((left, 40), "camera images", FAINT, font(13))
        draw.text((right, 40), "arenas from above; turquoise is transparent", FAINT, font(13))
        for robot, presses in enumerate(frame.presses):
            if presses > self._presses[robot]:
                self._pressed_at_s[robot], self._presses[robot] = frame.time_s, presses
            row, column = divmod(robot, self._columns)
            arena = None
            if frame.overview is not None:
                tile_px = frame.overview.shape[1] // self._columns
                arena = frame.overview[row * tile_px : (row + 1) * tile_px, column * tile_px : (column + 1) * tile_px]
            # Enlarged camera pixels stay sharp: this is what the policy reads.
            nearest, bicubic = Image.Resampling.NEAREST, Image.Resampling.BICUBIC
            for side, image, method, labels in (
                (left, frame.cameras[robot], nearest, self._camera_labels),
                (right, arena, bicubic, self._arena_labels),
            ):
                corner = (side + column * self._cell_px, HEADER_PX + row * self._cell_px)
                if image is not None:
                    size = (self._cell_px - 4, self._cell_px - 4)
                    enlarged = Image.fromarray(image).resize(size, method)
                    picture.paste(enlarged, (corner[0] + 2, corner[1] + 2))
                is_highlighted = frame.time_s - self._pressed_at_s[robot] < HIGHLIGHT_S
                self._label(draw, corner, labels[robot], presses, is_highlighted)
        return picture

    def _label(
        self, draw: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, presses: int, is_highlighted: bool
    ) -> None:
        """Paint name and presses of a rover into its cell, and a border after a press."""
        left, top = corner
        counted = f" ● {presses}" if presses else ""
        middle = left + 7 + draw.textlength(name, self._label_font)
        end = middle + draw.textlength(counted, self._label_font)
        draw.rectangle((left + 2, top + 2, end + 5, top + int(self._label_font.size) + 10), BACKGROUND)
        draw.text((left + 7, top + 5), name, TEXT, self._label_font)
        draw.text((middle, top + 5), counted, PRESSED, self._label_font)
        if is_highlighted:
            draw.rectangle((left, top, left + self._cell_px - 1, top + self._cell_px - 1), outline=PRESSED, width=4)
