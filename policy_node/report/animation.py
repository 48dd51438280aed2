# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the animations of the tools share: colours, fonts, and how a file of them is made small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageFont

BACKGROUND = (24, 26, 31)
TEXT = (236, 239, 244)
FAINT = (150, 156, 168)
PRESSED = (255, 82, 82)


def font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with Matplotlib."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), size_px)


def save_animation(
    pictures: Sequence[Image.Image], durations_ms: Sequence[int], file: Path, *, colours: int, most_bytes: int
) -> None:
    """Write an endless GIF, with as many of the pictures as the size of the file allows.

    Parameters
    ----------
    pictures
        All of one size, RGB.
    durations_ms
        How long each is shown.
    file
        Whose folder is made where it is missing.
    colours
        How many of them.
    most_bytes
        Above which every other picture is left out, and again, down to ten.
    """
    # One palette for all pictures: what does not move keeps its colours and costs nothing.
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
