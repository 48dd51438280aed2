# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Colours, font and GIF writer that all animations share."""

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
    """Write an endless GIF, with as many of the pictures as the file size allows.

    Parameters
    ----------
    pictures
        RGB pictures of one size.
    durations_ms
        Time for which each picture is shown.
    file
        File to write; its folder is made if it does not exist.
    colours
        Size of the palette.
    most_bytes
        Largest file size. Above it every second picture is left out, repeatedly, down to ten pictures.
    """
    # With one palette for all pictures, parts that do not move keep their colours and add no bytes.
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
