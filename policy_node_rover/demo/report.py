# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the demonstration leaves: an animation, histograms and a summary of a recording; nothing here needs ROS."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from policy_node.control.timing import percentiles
from policy_node.report.animation import BACKGROUND, FAINT, PRESSED, TEXT, font, save_animation

GRID_PX = 384
GAP_PX = 16
HEADER_PX = 64
FRAME_MS = 125
COLOURS = 96
MAX_GIF_BYTES = 6_000_000
# How long the border of a rover lights up after a press.
FLASH_S = 1.0

TIMING_FIGURES = ("lateness_ms", "tick_ms", "stamp_to_command_ms")


@dataclass(frozen=True, eq=False)
class Frame:
    """What was seen at one moment of the demonstration.

    Attributes
    ----------
    time_s
        Since the measurement began.
    cameras
        One image per robot, uint8 [height, width, 3]; None before its first.
    overview
        All arenas from above, row by row in a square grid, uint8 [height, width, 3]; None before the first.
    presses
        Beacons pressed so far, per robot.
    """

    time_s: float
    cameras: Sequence[np.ndarray | None]
    overview: np.ndarray | None
    presses: Sequence[int]


@dataclass(frozen=True, eq=False)
class Recording:
    """A measured stretch of the demonstration.

    Attributes
    ----------
    robots
        Names.
    elapsed_s
        Length of the stretch.
    ticks, missed_ticks
        In that time.
    presses
        Per robot, in that time.
    timing_ms
        float64 [ticks, 2 + robots]: lateness, duration of the tick, age of each robot's data at its command (NaN when
        the robot was not ready).
    cpu_percent
        By process; 100 is one core.
    about
        What else is worth knowing, such as device and policy.
    frames
        In order of time.
    """

    robots: tuple[str, ...]
    elapsed_s: float
    ticks: int
    missed_ticks: int
    presses: tuple[int, ...]
    timing_ms: np.ndarray
    cpu_percent: dict[str, float]
    about: dict[str, Any]
    frames: list[Frame] = field(repr=False)

    def timing_figures(self) -> dict[str, np.ndarray]:
        """Return the measured times in milliseconds by name, each one-dimensional and finite."""
        columns = (self.timing_ms[:, 0], self.timing_ms[:, 1], self.timing_ms[:, 2:].ravel())
        return {name: values[np.isfinite(values)] for name, values in zip(TIMING_FIGURES, columns, strict=True)}


def summarise(recording: Recording) -> dict[str, Any]:
    """Return the figures of `summary.json`; times of which there is no value are null."""
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
    """Write `summary.json`, `latency.png` and, when there are frames, `fleet.gif`; return their paths.

    Raises
    ------
    OSError
        When the folder cannot be written.
    """
    files = [folder / "summary.json", folder / "latency.png"]
    files[0].write_text(json.dumps(summarise(recording), indent=2) + "\n")
    draw_latency(recording, files[1])
    if recording.frames:
        files.append(folder / "fleet.gif")
        draw_fleet(recording, files[2])
    return files


def draw_latency(recording: Recording, file: Path) -> None:
    """Draw the histograms of tick time, stamp to command and lateness."""
    titles = {
        "tick_ms": "tick: from its start to the last command",
        "stamp_to_command_ms": "oldest reading's stamp to its command",
        "lateness_ms": "lateness: from the deadline to the tick",
    }
    figures = recording.timing_figures()
    summary = summarise(recording)
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    about = recording.about
    if about.get("sensor_rate_hz") and about.get("control_rate_hz"):
        # Why there are several peaks and not one.
        titles["stamp_to_command_ms"] += (
            f"\n(a comb: cameras at {about['sensor_rate_hz']:g} Hz, ticks at {about['control_rate_hz']:g} Hz)"
        )
    figure.suptitle(
        f"{summary['robots']} robots, {summary['ticks']} ticks in {summary['duration_s']:.0f} s, "
        f"{summary['missed_ticks']} missed; node: {recording.cpu_percent.get('node', math.nan):.0f} % of a core"
    )
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        values = figures[name]
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("ms")
        axes.spines[["top", "right"]].set_visible(False)
        if not values.size:
            continue
        p50, p99 = percentiles(values)
        # A single outlier must not squeeze everything else into one bar: it counts in the last one.
        limit = max(1.5 * p99, 1e-3)
        axes.hist(np.clip(values, 0.0, limit), bins=60, range=(0.0, limit), color="#4c78a8")
        for percentile, colour, label in ((p50, "#f58518", "p50"), (p99, "#e45756", "p99")):
            axes.axvline(percentile, color=colour, label=f"{label} {percentile:.2f} ms")
        axes.legend(frameon=False, fontsize=9, loc="upper right")
    for axes, counted in zip(figure.axes, ("ticks", "commands", "ticks"), strict=True):
        axes.set_ylabel(counted)
    figure.savefig(file, dpi=110)


def animation_speed(frames: Sequence[Frame]) -> float:
    """Return how many times faster than the rovers the animation runs."""
    if len(frames) < 2:
        return 1.0
    return (frames[-1].time_s - frames[0].time_s) / (len(frames) - 1) * 1e3 / FRAME_MS


def draw_fleet(recording: Recording, file: Path) -> None:
    """Draw the animation: on the left what the rovers see, on the right their arenas from above."""
    painter = _Painter(recording)
    pictures = [painter.paint(frame) for frame in recording.frames]
    durations_ms = [FRAME_MS] * len(pictures)
    save_animation(pictures, durations_ms, file, colours=COLOURS, most_bytes=MAX_GIF_BYTES)


class _Painter:
    """Paints one frame of the animation."""

    def __init__(self, recording: Recording) -> None:
        self._robots = recording.robots
        self._rate_hz = recording.about.get("control_rate_hz", 0.0)
        speed = f"{animation_speed(recording.frames):.2g}"
        self._speed = "" if speed == "1" else f"{speed}x speed   "
        self._columns = math.ceil(math.sqrt(len(recording.robots)))
        self._rows = math.ceil(len(recording.robots) / self._columns)
        self._cell_px = GRID_PX // self._columns
        self._title_font = font(17, bold=True)
        self._text_font = font(13)
        self._label_font = font(min(13, max(8, self._cell_px // 9)), bold=True)
        # Small tiles have room for the number alone, and in an arena a label must not hide a beacon.
        numbers = [name.rpartition("_")[2] for name in recording.robots]
        self._camera_labels = recording.robots if self._cell_px >= 90 else numbers
        self._arena_labels = recording.robots if self._cell_px >= 150 else numbers
        self._pressed_at_s = [-math.inf] * len(recording.robots)
        self._presses = [0] * len(recording.robots)

    def paint(self, frame: Frame) -> Image.Image:
        """Paint a frame; frames must come in order, as a press lights up for a while."""
        width = 2 * self._columns * self._cell_px + 3 * GAP_PX
        height = HEADER_PX + self._rows * self._cell_px + GAP_PX
        picture = Image.new("RGB", (width, height), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        left, right = GAP_PX, 2 * GAP_PX + self._columns * self._cell_px
        count = len(self._robots)
        title = f"one policy, {count} rover{'s' if count > 1 else ''}" + (
            f", {self._rate_hz:g} Hz" if self._rate_hz else ""
        )
        draw.text((left, 12), title, TEXT, self._title_font)
        draw.text((left, 40), "what the rovers see", FAINT, self._text_font)
        draw.text((right, 40), "their arenas from above; turquoise is glass", FAINT, self._text_font)
        total = sum(frame.presses)
        counted = f"{total} beacon{'' if total == 1 else 's'} pressed"
        right_text = f"{self._speed}{counted}   {frame.time_s:5.1f} s"
        draw.text((width - GAP_PX, 14), right_text, TEXT, self._text_font, anchor="ra")
        for robot in range(count):
            if frame.presses[robot] > self._presses[robot]:
                self._pressed_at_s[robot], self._presses[robot] = frame.time_s, frame.presses[robot]
            row, column = divmod(robot, self._columns)
            top = HEADER_PX + row * self._cell_px
            camera, arena = frame.cameras[robot], self._arena(frame.overview, row, column)
            for start, pixels, labels, method in (
                (left, camera, self._camera_labels, Image.Resampling.NEAREST),
                (right, arena, self._arena_labels, Image.Resampling.BICUBIC),
            ):
                self._cell(picture, (start + column * self._cell_px, top), pixels, method, labels[robot], robot, frame)
        return picture

    def _arena(self, overview: np.ndarray | None, row: int, column: int) -> np.ndarray | None:
        if overview is None:
            return None
        tile_px = overview.shape[1] // self._columns
        return overview[row * tile_px : (row + 1) * tile_px, column * tile_px : (column + 1) * tile_px]

    def _cell(
        self,
        picture: Image.Image,
        corner: tuple[int, int],
        pixels: np.ndarray | None,
        method: Image.Resampling,
        label: str,
        robot: int,
        frame: Frame,
    ) -> None:
        draw = ImageDraw.Draw(picture)
        left, top = corner
        size = self._cell_px - 4
        if pixels is not None:
            # Enlarged camera pixels stay pixels: this is all that the policy gets to see.
            picture.paste(Image.fromarray(pixels).resize((size, size), method), (left + 2, top + 2))
        presses = f" ● {frame.presses[robot]}" if frame.presses[robot] else ""
        middle = left + 7 + draw.textlength(label, self._label_font)
        end = middle + draw.textlength(presses, self._label_font)
        line_px = int(self._label_font.size)
        draw.rectangle((left + 2, top + 2, end + 5, top + line_px + 10), BACKGROUND)
        draw.text((left + 7, top + 5), label, TEXT, self._label_font)
        draw.text((middle, top + 5), presses, PRESSED, self._label_font)
        if frame.time_s - self._pressed_at_s[robot] < FLASH_S:
            draw.rectangle((left, top, left + self._cell_px - 1, top + self._cell_px - 1), outline=PRESSED, width=4)
