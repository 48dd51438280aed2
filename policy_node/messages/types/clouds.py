# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Point clouds: a fixed number of points, a map seen from above, or an image of distances.

Axes are those of REP 103: x ahead, y to the left, z up. A map has the farthest points in its first row and those on the
left in its first column; an image of distances has the highest direction in its first row and the leftmost in its first
column. The axis of channels of both is the shortest, as of an image; without it there is one channel.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from policy_node.config.parameters import ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import deserialise
from policy_node.messages.fields import MessageClass, MessageTypeError, require_unique
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types import MessageType

XYZ = ("x", "y", "z")
# By the number of a sensor_msgs/PointField.
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
# The farthest points are chosen from at most this many times as many, as the time grows with the product.
_FARTHEST_OF = 8
_BOUNDS = {"points": (0, 4, 6), "map": (4, 6), "range_image": (4,)}
_AXES = {"points": (2,), "map": (2, 3), "range_image": (2, 3)}
MASK, COUNT, OCCUPIED, RANGE = "mask", "count", "occupied", "range"
# What a projection gives beside the fields of the points.
_COMPUTED = {"points": (MASK,), "map": (OCCUPIED, COUNT), "range_image": (RANGE,)}
_DEFAULTS = {"points": XYZ, "map": ("z",), "range_image": (RANGE,)}


class CloudReader:
    """Reads sensor_msgs/msg/PointCloud2 into an array of a fixed shape.

    Points with NaN or infinity in what is read do not count, nor do those outside of `bounds`, nor those at (0, 0, 0),
    as some drivers publish rays without a return. A cloud without a measured point is unusable, unless it is empty.

    Raises
    ------
    MessageTypeError
        If the choices do not give the spec.
    """

    parallel = False

    def __init__(self, message_type: MessageClass, spec: ArraySpec, choices: ReadingChoices) -> None:
        self._message_type = message_type
        self._projection, self._bounds = choices.projection, choices.bounds
        self._fields = choices.paths or _DEFAULTS[self._projection]
        require_unique("fields", self._fields)
        # A vector of one number per point: its mask, or their count.
        self._is_alone = len(self._fields) == 1 and self._fields[0] in (MASK, COUNT) and len(spec.shape) == 1
        axes = (1,) if self._is_alone else _AXES[self._projection]
        if len(spec.shape) not in axes or (self._projection == "points" and spec.dtype.kind != "f"):
            raise MessageTypeError(
                f"a cloud as {self._projection} cannot give {spec.dtype} {list(spec.shape)}; allowed are floating "
                "point [points, fields], with `projection` map or range_image [height, width] with or without channels "
                "and with `field` mask or count a vector"
            )
        self._channel_axis = int(np.argmin(spec.shape)) if len(spec.shape) == 3 else -1
        found = 1 if len(spec.shape) != 3 else spec.shape[self._channel_axis]
        found = spec.shape[1] if len(spec.shape) == 2 and self._projection == "points" else found
        if found != len(self._fields):
            raise MessageTypeError(
                f"fields: found {len(self._fields)} ({', '.join(self._fields)}), but the observation is {spec}; name "
                "one for each channel"
            )
        if len(self._bounds) not in _BOUNDS[self._projection] or any(
            low >= high for low, high in zip(self._bounds[::2], self._bounds[1::2], strict=True)
        ):
            raise MessageTypeError(
                f"bounds: found {list(self._bounds)}; give lowest and highest x, y and z (z only if it counts), for a "
                "range_image lowest and highest azimuth and elevation in radians"
            )
        self._size, self._chooses_farthest = spec.shape[0], choices.subsample == "farthest"
        self._grid = tuple(length for axis, length in enumerate(spec.shape) if axis != self._channel_axis)
        self._empty = next(iter(choices.out_of_range), 0.0)
        limits = np.iinfo(spec.dtype) if spec.dtype.kind in "iu" else np.finfo(spec.dtype)
        self._limits = limits.min, limits.max

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
        message = deserialise(raw, self._message_type)
        computed = (*_COMPUTED[self._projection], *([COUNT] if self._is_alone else ()))
        names = [*XYZ, *(name for name in self._fields if name not in XYZ and name not in computed)]
        points = self._within(read_points(message, names))
        found = dict(zip(names, points.T, strict=True))
        if self._projection == "points":
            np.copyto(out, self._points(found, points, raw))
            return
        cells = self._map_cells(points) if self._projection == "map" else self._image_cells(points)
        channels = [self._channel(name, found, points, *cells) for name in self._fields]
        grid = np.clip(np.stack(channels), *self._limits)
        if self._channel_axis < 0:
            grid = grid[0]
        elif self._channel_axis:
            grid = np.moveaxis(grid, 0, self._channel_axis)
        np.copyto(out, grid, casting="unsafe")

    def _within(self, points: np.ndarray) -> np.ndarray:
        """Return the points `[n, fields]` that count."""
        count = len(points)
        points = points[np.isfinite(points).all(axis=1) & points[:, : len(XYZ)].any(axis=1)]
        if count and not len(points):
            raise UnusableReading(f"none of the {count} points of the cloud was measured")
        if self._projection != "range_image":
            for axis, (low, high) in enumerate(zip(self._bounds[::2], self._bounds[1::2], strict=True)):
                points = points[(points[:, axis] >= low) & (points[:, axis] < high)]
        return points

    def _points(self, found: dict[str, np.ndarray], points: np.ndarray, raw: bytes) -> np.ndarray:
        """Return `[points, fields]`, or the mask or the count alone."""
        if self._fields == (COUNT,):
            return np.array([len(points)], np.float64)
        used = min(len(points), self._size)
        chosen = np.arange(used)
        if len(points) > self._size and not self._is_alone:
            # The same message gives the same points, also in a replay.
            rng = np.random.default_rng(zlib.crc32(raw))
            most = self._size * _FARTHEST_OF if self._chooses_farthest else self._size
            candidates = np.sort(rng.choice(len(points), most, replace=False)) if len(points) > most else None
            if self._chooses_farthest:
                part = points[:, :3] if candidates is None else points[candidates, :3]
                farthest = farthest_points(part, self._size)
                chosen = farthest if candidates is None else candidates[farthest]
            else:
                assert candidates is not None
                chosen = candidates
        mask = np.arange(self._size) < used
        if self._is_alone:
            return mask.astype(np.float64)
        array = np.zeros((self._size, len(self._fields)))
        for column, name in enumerate(self._fields):
            array[:used, column] = 1.0 if name == MASK else found[name][chosen]
        return np.clip(array, *self._limits)

    def _map_cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the points in the map, and what they are ordered by."""
        (x_low, x_high, y_low, y_high), (height, width) = self._bounds[:4], self._grid
        rows = height - 1 - _bins(points[:, 0], x_low, x_high, height)
        columns = width - 1 - _bins(points[:, 1], y_low, y_high, width)
        return np.arange(len(points)), rows * width + columns

    def _image_cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the points in the image, the farthest first, and their cells."""
        (left, right), (low, high), (height, width) = self._bounds[:2], self._bounds[2:], self._grid
        distances = np.linalg.norm(points[:, :3], axis=1)
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        with np.errstate(invalid="ignore", divide="ignore"):
            elevation = np.arcsin(np.clip(points[:, 2] / distances, -1.0, 1.0))
        # Azimuths may be given beyond half a turn.
        azimuth = (azimuth - left) % (2.0 * math.pi) + left
        seen = np.flatnonzero((azimuth < right) & (elevation >= low) & (elevation < high))
        seen = seen[np.argsort(-distances[seen], kind="stable")]
        rows = height - 1 - _bins(elevation[seen], low, high, height)
        columns = width - 1 - _bins(azimuth[seen], left, right, width)
        return seen, rows * width + columns

    def _channel(
        self, name: str, found: dict[str, np.ndarray], points: np.ndarray, chosen: np.ndarray, cells: np.ndarray
    ) -> np.ndarray:
        """Return one channel `[height, width]`."""
        cell_count = self._grid[0] * self._grid[1]
        if name in (OCCUPIED, COUNT):
            counts = np.bincount(cells, minlength=cell_count)
            return ((counts > 0) if name == OCCUPIED else counts).astype(np.float64).reshape(self._grid)
        values = np.linalg.norm(points[:, :3], axis=1) if name == RANGE else found[name]
        values = values[chosen]
        if self._projection == "map":
            # Of several points in a cell the largest value counts: it is written last.
            order = np.argsort(values, kind="stable")
            values, cells = values[order], cells[order]
        channel = np.full(cell_count, self._empty)
        channel[cells] = values
        return channel.reshape(self._grid)


def _bins(values: np.ndarray, low: float, high: float, count: int) -> np.ndarray:
    return np.minimum(((values - low) / (high - low) * count).astype(np.intp), count - 1)


def read_points(message: Any, names: Sequence[str]) -> np.ndarray:
    """Return the fields of these names of all points `[n, fields]` float64; raises UnusableReading."""
    fields = {field.name: field for field in message.fields}
    order = ">" if message.is_bigendian else "<"
    formats = []
    for name in names:
        field = fields.get(name)
        if field is None or field.datatype not in _DTYPES or field.count > 1:
            kind = "is missing" if field is None else f"has datatype {field.datatype} and count {field.count}"
            raise UnusableReading(f"field '{name}' {kind}; fields found: {', '.join(fields)}")
        formats.append(order + _DTYPES[field.datatype])
    end = max(fields[name].offset + np.dtype(kind).itemsize for name, kind in zip(names, formats, strict=True))
    height, width, step, row_step = message.height, message.width, message.point_step, message.row_step
    if end > step or row_step < width * step or len(message.data) != row_step * height:
        raise UnusableReading(
            f"{width} × {height} points of {step} bytes, rows of {row_step} and {len(message.data)} bytes of data "
            f"contradict each other; a point has at least {end} bytes"
        )
    points = np.empty((height, width, len(names)))
    for column, (name, kind) in enumerate(zip(names, formats, strict=True)):
        if height and width:
            place = fields[name].offset
            points[..., column] = np.ndarray((height, width), kind, message.data, place, (row_step, step))
    return points.reshape(-1, len(names))


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """Return the indices `[count]` of points `[n, 3]`, each the farthest from those before, from the first point on."""
    chosen = np.zeros(count, np.intp)
    distances = np.full(len(points), np.inf)
    for index in range(1, count):
        difference = points - points[chosen[index - 1]]
        np.minimum(distances, np.einsum("ij,ij->i", difference, difference), out=distances)
        chosen[index] = np.argmax(distances)
    return chosen


MESSAGE_TYPES = MessageType(
    "sensor_msgs/msg/PointCloud2",
    "points of `fields`, or a `projection` of them",
    "as many as the policy takes",
    make=CloudReader,
    takes=frozenset({"field", "fields", "projection", "subsample", "bounds", "out_of_range"}),
    refuses="a cloud in which nothing was measured (NaN or zeros only), fields that are missing or arrays, sizes that "
    "contradict each other",
)
