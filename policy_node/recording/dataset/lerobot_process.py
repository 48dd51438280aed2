# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run as a script by an interpreter with LeRobot: writes the episodes that come through its standard input.

Each message is its length in 8 bytes and its content: first JSON, then an episode as the arrays of `np.savez`. This
file imports nothing else of this package, which that interpreter may lack.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

# Name of the text of an episode, beside the names of its features.
TASK = "task"


def feature_name(key: str, frame: tuple[str, tuple[int, ...]]) -> str:
    """Return the name of the feature of an observation."""
    return f"observation.images.{key}" if is_image(*frame) else f"observation.{key}"


def feature_of(frame: tuple[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the description of a feature; images have their channels last and are stored without loss."""
    dtype, shape = frame
    if is_image(dtype, shape):
        sizes = (*shape[1:], shape[0]) if _is_channels_first(shape) else shape
        return {"dtype": "image", "shape": sizes, "names": ["height", "width", "channels"]}
    return {"dtype": dtype, "shape": shape or (1,), "names": None}


def is_image(dtype: str, shape: tuple[int, ...]) -> bool:
    """Return whether an array is an image."""
    return dtype == "uint8" and len(shape) == 3


def channels_last(frames: np.ndarray) -> np.ndarray:
    """Return `[steps, ...]` with the channels of images last, and single numbers as vectors."""
    if is_image(frames.dtype.name, frames.shape[1:]) and _is_channels_first(frames.shape[1:]):
        return np.moveaxis(frames, 1, -1)
    return frames[:, None] if frames.ndim == 1 else frames


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    # The smallest axis is the channels, the same rule as in SB3.
    return int(np.argmin(shape)) == 0


def _messages(stream: BinaryIO) -> Iterator[bytes]:
    while size := stream.read(8):
        yield stream.read(int.from_bytes(size, "little"))


def main() -> None:
    """Write a dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    messages = _messages(sys.stdin.buffer)
    head = json.loads(next(messages))
    features = {name: {**entry, "shape": tuple(entry["shape"])} for name, entry in head["features"].items()}
    dataset = LeRobotDataset.create(
        head["repo_id"], head["fps"], features, root=head["root"], use_videos=False, image_writer_threads=2
    )
    for message in messages:
        with np.load(io.BytesIO(message)) as arrays:
            episode, task = {name: arrays[name] for name in features}, str(arrays[TASK])
        for step in range(len(episode["action"])):
            dataset.add_frame({TASK: task, **{name: rows[step] for name, rows in episode.items()}})
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    main()
