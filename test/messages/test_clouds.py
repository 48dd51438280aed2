# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Point clouds of any layout, occupancy grids, arrays with several dimensions and lists of changing length."""

import math
from typing import Any

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Float32MultiArray, MultiArrayDimension, MultiArrayLayout, UInt8MultiArray

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import MessageTypeError, reading_decoder
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.clouds import farthest_points

RNG = np.random.default_rng(4)
NUMBERS = {"f4": 7, "f8": 8, "u2": 4, "i1": 1}


def cloud(
    kinds: dict[str, str] | None = None, step: int = 0, padding: int = 0, big: bool = False, **columns: Any
) -> PointCloud2:
    """Return a cloud of columns `[n]` or `[height, width]`, in the order of their names, float32 unless told."""
    kinds = kinds or {}
    order = ">" if big else "<"
    arrays = {name: np.atleast_2d(np.asarray(values)) for name, values in columns.items()}
    height, width = next(iter(arrays.values())).shape
    formats = [order + kinds.get(name, "f4") for name in arrays]
    packed = np.dtype({"names": list(arrays), "formats": formats})
    dtype = np.dtype(
        {
            "names": list(arrays),
            "formats": formats,
            # Gaps before every field.
            "offsets": [packed.fields[name][1] + 3 * (index + 1) for index, name in enumerate(arrays)],
            "itemsize": step or packed.itemsize + 3 * len(arrays) + 5,
        }
    )
    points = np.zeros((height, width), dtype)
    for name, values in arrays.items():
        points[name] = values
    rows = points.view(np.uint8).reshape(height, -1)
    rows = np.concatenate([rows, np.full((height, padding), 99, np.uint8)], axis=1)
    fields = [
        PointField(name=name, offset=dtype.fields[name][1], datatype=NUMBERS[kinds.get(name, "f4")], count=1)
        for name in arrays
    ]
    return PointCloud2(
        height=height,
        width=width,
        fields=fields,
        is_bigendian=big,
        point_step=dtype.itemsize,
        row_step=rows.shape[1],
        data=rows.tobytes(),
    )


def decode(message: Any, shape: tuple[int, ...], dtype: str = "float32", **choices: Any) -> np.ndarray:
    package = type(message).__module__.partition(".")[0]
    kind = f"{package}/msg/{type(message).__name__}"
    decoder = reading_decoder(kind, ArraySpec("seen", shape, dtype, 0, 1), topic="seen", **choices)
    out = np.full(shape, 77, dtype)
    for _ in range(2):
        try:
            decoder.decode(serialize_message(message), out)
        except UnusableReading:
            assert np.all(out == 77), "an unusable reading must leave the row alone"
            raise
    return out


XYZ = {name: RNG.normal(size=20) for name in "xyz"}
POINTS = np.stack(list(XYZ.values()), axis=1).astype(np.float32)


# Points


@pytest.mark.both_distributions
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 7])
def test_points_of_any_layout_are_read_by_the_names_of_their_fields(big: bool, padding: int) -> None:
    intensity = RNG.integers(0, 60000, 20)
    columns = {"ring": np.arange(20), "y": XYZ["y"], "intensity": intensity, "x": XYZ["x"], "z": XYZ["z"]}
    columns = {name: values.reshape(4, 5) for name, values in columns.items()}
    message = cloud({"intensity": "u2", "ring": "i1", "y": "f8"}, padding=padding, big=big, **columns)
    got = decode(message, (20, 5), fields=["x", "y", "z", "intensity", "ring"])
    assert np.allclose(got, np.column_stack([POINTS, intensity, np.arange(20)]))


def test_few_points_are_followed_by_zeros_which_a_mask_marks() -> None:
    got = decode(cloud(**XYZ), (24, 4), fields=["x", "y", "z", "mask"])
    assert np.allclose(got[:20, :3], POINTS) and not got[20:].any() and got[:20, 3].all()
    assert decode(cloud(**XYZ), (24,), field="mask").tolist() == [1.0] * 20 + [0.0] * 4
    assert decode(cloud(**XYZ), (1,), field="count").tolist() == [20.0]


def test_points_that_were_not_measured_or_lie_outside_do_not_count() -> None:
    columns = {name: values.copy() for name, values in XYZ.items()}
    columns["x"][3], columns["z"][5] = np.nan, np.inf
    got = decode(cloud(**columns), (20, 3))
    assert np.allclose(got[:18], np.delete(POINTS, [3, 5], axis=0)) and not got[18:].any()
    bounds = [-1.0, 1.0, -0.5, 0.5]
    inside = (np.abs(POINTS[:, 0]) < 1.0) & (np.abs(POINTS[:, 1]) < 0.5)
    assert decode(cloud(**XYZ), (1,), field="count", bounds=bounds).tolist() == [inside.sum()]
    with pytest.raises(UnusableReading, match="none of the 20 points of the cloud was measured"):
        decode(cloud(**{**XYZ, "y": np.full(20, np.nan)}), (20, 3))
    empty = decode(cloud(**{name: np.zeros((1, 0)) for name in "xyz"}), (5, 3))
    assert not empty.any()


def test_farthest_points_are_those_of_the_plain_algorithm() -> None:
    chosen = [0]
    for _ in range(6):
        distances = np.min([np.linalg.norm(POINTS - POINTS[index], axis=1) for index in chosen], axis=0)
        chosen.append(int(np.argmax(distances)))
    assert farthest_points(POINTS.astype(np.float64), 7).tolist() == chosen
    assert np.allclose(decode(cloud(**XYZ), (7, 3)), POINTS[chosen])


def test_a_subsample_of_many_points_is_the_same_for_the_same_message() -> None:
    columns = {name: RNG.normal(size=500) for name in "xyz"}
    points = np.stack(list(columns.values()), axis=1).astype(np.float32)
    message = cloud(**columns)
    for subsample in ("random", "farthest"):
        first = decode(message, (10, 3), subsample=subsample)
        assert np.array_equal(first, decode(message, (10, 3), subsample=subsample))
        assert all(np.any(np.all(np.isclose(points, point), axis=1)) for point in first)
        assert len(np.unique(first, axis=0)) == 10


# Maps and images of distances


def test_a_map_has_what_is_ahead_in_its_first_row_and_what_is_left_in_its_first_column() -> None:
    # Ahead to the left, ahead to the right twice, behind to the right, outside.
    columns = {"x": [1.5, 1.5, 1.6, 0.5, 5.0], "y": [0.5, -0.5, -0.4, -0.5, 0.0], "z": [1.0, 2.0, 3.0, 4.0, 9.0]}
    bounds = [0.0, 2.0, -1.0, 1.0]
    choices = {"projection": "map", "bounds": bounds}
    assert decode(cloud(**columns), (2, 2), **choices).tolist() == [[1.0, 3.0], [0.0, 4.0]]
    assert decode(cloud(**columns), (2, 2), out_of_range=[-7.0], **choices).tolist() == [[1.0, 3.0], [-7.0, 4.0]]
    wide = {"fields": ["occupied", "count"], "projection": "map", "bounds": [0.0, 3.0, -1.5, 1.5]}
    counts = decode(cloud(**columns), (2, 3, 3), "uint8", **wide)
    assert counts[1].sum() == 4 and counts[0].max() == 1
    last = decode(cloud(**columns), (3, 3, 2), "uint8", **wide)
    assert np.array_equal(np.moveaxis(last, -1, 0), counts)


def test_an_image_of_distances_shows_the_nearest_point_in_each_direction() -> None:
    quarter = math.pi / 4
    # Ahead at 2 m and behind that at 3 m, to the left below, to the right above.
    columns = {"x": [2.0, 3.0, 1.0, 1.0], "y": [0.0, 0.0, 1.0, -1.0], "z": [0.1, 0.15, -0.5, 0.5]}
    choices: dict[str, Any] = {"projection": "range_image", "bounds": [-1.5 * quarter, 1.5 * quarter, -0.5, 0.5]}
    got = decode(cloud(**columns), (2, 3), **choices)
    side = math.sqrt(2.25)
    assert np.allclose(got, [[0.0, math.hypot(2.0, 0.1), side], [side, 0.0, 0.0]])
    choices["bounds"][2:] = -0.75, 0.75
    both = decode(cloud(intensity=[5, 6, 7, 8], **columns), (3, 3, 2), fields=["range", "intensity"], **choices)
    assert both[..., 1].tolist() == [[0.0, 0.0, 8.0], [0.0, 5.0, 0.0], [7.0, 0.0, 0.0]]
    assert np.allclose(both[..., 0][both[..., 1] > 0], [side, math.hypot(2.0, 0.1), side])


def test_azimuths_may_pass_behind_the_robot() -> None:
    columns = {"x": [-1.0, -1.0], "y": [0.1, -0.1], "z": [0.0, 0.0]}
    bounds = [math.pi / 2, 3 * math.pi / 2, -0.5, 0.5]
    got = decode(cloud(**columns), (1, 2), projection="range_image", bounds=bounds)
    assert np.all(got > 0.9)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"point_step": 4}, "contradict each other"),
        ({"row_step": 3}, "contradict each other"),
        ({"height": 2}, "contradict each other"),
        ({"width": 2**31}, "contradict each other"),
        ({"data": b""}, "contradict each other"),
        ({"fields": []}, "field 'x' is missing"),
        ({"fields": [PointField(name="x", datatype=9)]}, "field 'x' has datatype 9"),
        ({"fields": [PointField(name="x", datatype=7, count=3)]}, "field 'x' has datatype 7 and count 3"),
    ],
)
def test_clouds_that_contradict_themselves_are_unusable(changes: dict[str, Any], text: str) -> None:
    message = cloud(**XYZ)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(UnusableReading, match=text):
        decode(message, (20, 3))


@pytest.mark.parametrize(
    ("shape", "dtype", "choices", "text"),
    [
        ((20, 4), "float32", {}, r"fields: found 3 \(x, y, z\)"),
        ((20,), "float32", {}, "cannot give"),
        ((20, 3), "uint8", {}, "cannot give uint8"),
        ((4, 4), "float32", {"projection": "map"}, "bounds: found"),
        ((4, 4), "float32", {"projection": "map", "bounds": [1.0, 0.0, 0.0, 1.0]}, "bounds: found"),
        ((4, 4), "float32", {"projection": "range_image", "bounds": [0.0, 1.0]}, "bounds: found"),
        ((20, 2), "float32", {"fields": ["x", "x"]}, "x named more than once"),
    ],
)
def test_clouds_that_cannot_work_are_refused(
    shape: tuple[int, ...], dtype: str, choices: dict[str, Any], text: str
) -> None:
    with pytest.raises(MessageTypeError, match=text):
        decode(cloud(**XYZ), shape, dtype, **choices)


# Grids


def grid(cells: list[list[int]]) -> OccupancyGrid:
    message = OccupancyGrid(data=np.array(cells, np.int8).ravel().tolist())
    message.info.height, message.info.width = len(cells), len(cells[0])
    return message


@pytest.mark.both_distributions
def test_occupancy_grids() -> None:
    message = grid([[0, 100, -1], [50, -1, 1]])
    assert decode(message, (2, 3)).tolist() == [[0, 100, -1], [50, -1, 1]]
    assert decode(message, (2, 3, 1), "uint8").ravel().tolist() == [0, 100, 255, 50, 255, 1]
    assert decode(message, (1, 2, 3), "int8", out_of_range=[50.0]).ravel().tolist() == [0, 100, 50, 50, 50, 1]
    with pytest.raises(UnusableReading, match="a grid of 2 × 3 cells found, the policy takes 3 × 2"):
        decode(message, (3, 2))
    message.data = message.data[:-1]
    with pytest.raises(UnusableReading, match="5 cells found in a grid of 2 × 3"):
        decode(message, (2, 3))
    with pytest.raises(UnusableReading, match="a cell has -2, not -1 to 100"):
        decode(grid([[0, -2]]), (1, 2))


# Arrays with a layout, and lists


def layout(*sizes: int, offset: int = 0, strides: tuple[int, ...] = ()) -> MultiArrayLayout:
    strides = strides or tuple(math.prod(sizes[axis:]) for axis in range(len(sizes)))
    dims = [MultiArrayDimension(size=size, stride=stride) for size, stride in zip(sizes, strides, strict=True)]
    return MultiArrayLayout(dim=dims, data_offset=offset)


def test_an_array_of_several_dimensions_is_checked_by_its_layout() -> None:
    data = [float(number) for number in range(6)]
    expected = [[0, 1, 2], [3, 4, 5]]
    assert decode(Float32MultiArray(data=data, layout=layout(2, 3)), (2, 3)).tolist() == expected
    assert decode(Float32MultiArray(data=data), (2, 3)).tolist() == expected
    got = decode(UInt8MultiArray(data=range(6), layout=layout(2, 3)), (2, 3), "uint8", field="data")
    assert got.tolist() == expected
    for wrong in (layout(3, 2), layout(6), layout(2, 3, offset=1), layout(2, 3, strides=(6, 1))):
        with pytest.raises(UnusableReading, match="the layout has sizes"):
            decode(Float32MultiArray(data=data, layout=wrong), (2, 3))
    with pytest.raises(UnusableReading, match="5 numbers found, the policy takes 6"):
        decode(Float32MultiArray(data=data[:5], layout=layout(2, 3)), (2, 3))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_lists_of_changing_length_are_filled_up_or_cut(count: int) -> None:
    data = [number + 0.5 for number in range(count)]
    message = Float32MultiArray(data=data)
    filled = (data + [0.0] * 4)[:4]
    assert decode(message, (4,), padding="zeros").tolist() == filled
    assert decode(message, (4,), padding="zeros_and_count").tolist() == [*filled[:3], count]
    if count != 4:
        with pytest.raises(UnusableReading, match=f"{count} numbers found"):
            decode(message, (4,))
