# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Shared parts of animations: colours, fonts, the header, and writing a small GIF."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (24, 26, 31)
TEXT = (236, 239, 244)
FAINT = (150, 156, 168)
PRESSED = (255, 82, 82)


@functools.cache
def font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with Matplotlib."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), size_px)


def draw_header(
    draw: ImageDraw.ImageDraw,
    left: int,
    right: int,
    title: str,
    subtitle: str,
    status: str,
    colour: tuple[int, int, int] = TEXT,
) -> None:
    """Draw title and subtitle on the left of the top line, and the status in a colour on the right."""
    title_font = font(17, bold=True)
    draw.text((left, 27), title, TEXT, title_font, anchor="ls")
    draw.text((left + draw.textlength(title, title_font) + 12, 27), subtitle, FAINT, font(13), anchor="ls")
    draw.text((right, 27), status, colour, title_font, anchor="rs")


def save_animation(
    pictures: Sequence[Image.Image], durations_ms: Sequence[int], file: Path, *, colours: int, most_bytes: int
) -> None:
    """Write RGB pictures of one size as an endless GIF, each for its duration, with a palette of `colours`.

    While the file is larger than `most_bytes`, drop every second picture; at least ten are kept.
    """
    # One palette for all pictures: what does not change between pictures costs no bytes.
    samples = pictures[:: max(1, len(pictures) // 8)]
    strip = Image.new("RGB", (samples[0].width, sum(picture.height for picture in samples)))
    for index, picture in enumerate(samples):
        strip.paste(picture, (0, index * picture.height))
    palette = strip.quantize(colours, dither=Image.Dither.NONE)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    file.parent.mkdir(parents=True, exist_ok=True)
    step = 1
    while True:
        shown = frames[::step]
        shown_ms = [sum(durations_ms[start : start + step]) for start in range(0, len(frames), step)]
        shown[0].save(file, "GIF", save_all=True, append_images=shown[1:], duration=shown_ms, loop=0, optimize=False)
        if file.stat().st_size <= most_bytes or len(shown) < 10:
            return
        step *= 2
