# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Images as real cameras publish them, against OpenCV's own conversions and cv_bridge's conventions."""

import struct
import tracemalloc
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import ReadingDecoder, reading_decoder
from policy_node.messages.reading import UnusableReading

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
HEIGHT, WIDTH = 24, 32
RNG = np.random.default_rng(5)
TO_RGB = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
    # ROS names a pattern by its first two rows, OpenCV by the second and third.
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def stored(encoding: str) -> np.ndarray:
    """Return random pixels as they lie in a message."""
    if encoding.startswith("nv"):
        return noise(HEIGHT * 3 // 2, WIDTH)
    return noise(HEIGHT, WIDTH, 2) if "y" in encoding[:4] and "bayer" not in encoding else noise(HEIGHT, WIDTH)


def image(pixels: np.ndarray, encoding: str, height: int | None = None, padding: int = 0, big: bool = False) -> Image:
    if big:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 201, np.uint8)], axis=1)
    size = {"height": height or len(pixels), "width": pixels.shape[1], "step": padded.shape[1]}
    return Image(encoding=encoding, is_bigendian=int(big), data=padded.tobytes(), **size)


def decoder_of(
    shape: tuple[int, ...], dtype: str = "uint8", high: float | None = None, kind: str = IMAGE, **choices: Any
) -> ReadingDecoder:
    high = high if high is not None else 10.0 if dtype == "float32" else np.iinfo(dtype).max
    return reading_decoder(kind, ArraySpec("seen", shape, dtype, 0, high), topic="seen", **choices)


def decode(message: Any, shape: tuple[int, ...], dtype: str = "uint8", **choices: Any) -> np.ndarray:
    kind = IMAGE if isinstance(message, Image) else COMPRESSED_IMAGE
    out = np.full(shape, 77, dtype)
    decoder_of(shape, dtype, kind=kind, **choices).decode(serialize_message(message), out)
    return out


# Colours


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("encoding", TO_RGB)
def test_mosaics_become_colours_as_in_opencv(encoding: str, padding: int) -> None:
    pixels = stored(encoding)
    rgb = cv2.cvtColor(pixels, TO_RGB[encoding])
    message = image(pixels, encoding, HEIGHT, padding)
    assert np.array_equal(decode(message, rgb.shape), rgb)
    assert np.array_equal(decode(message, rgb.shape, encoding="bgr8"), rgb[..., ::-1])
    small = cv2.resize(rgb, (8, 6), interpolation=cv2.INTER_AREA)
    assert np.array_equal(decode(message, (6, 8, 3)), small)


@pytest.mark.parametrize("encoding", ["nv12", "yuv422", "yuv422_yuy2"])
def test_the_grey_of_yuv_is_its_luma(encoding: str) -> None:
    pixels = stored(encoding)
    luma = {"nv12": pixels[:HEIGHT], "yuv422": pixels[..., 1:], "yuv422_yuy2": pixels[..., :1]}[encoding]
    grey = decode(image(pixels, encoding, HEIGHT), (HEIGHT, WIDTH, 1))
    assert np.array_equal(grey[..., 0], luma.reshape(HEIGHT, WIDTH))


@pytest.mark.parametrize(("order", "code"), [("rggb", cv2.COLOR_BayerBG2RGB), ("gbrg", cv2.COLOR_BayerGR2RGB)])
@pytest.mark.parametrize("big", [False, True])
def test_a_bayer_pattern_of_16_bits_becomes_8_bits_as_in_cv_bridge(order: str, code: int, big: bool) -> None:
    pixels = noise(HEIGHT, WIDTH, dtype="uint16")
    rgb16 = cv2.cvtColor(pixels, code)
    message = image(pixels, f"bayer_{order}16", big=big)
    assert np.array_equal(decode(message, rgb16.shape, "uint16"), rgb16)
    assert np.array_equal(decode(message, rgb16.shape), np.rint(rgb16 * (255 / 65535)).astype(np.uint8))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("encoding", "channels"), [("mono16", 1), ("rgb16", 3), ("bgr16", 3), ("rgba16", 4)])
def test_colours_of_16_bits_become_8_bits_and_back(encoding: str, channels: int, big: bool) -> None:
    pixels = noise(HEIGHT, WIDTH, channels, dtype="uint16")
    wide = image(pixels, encoding, big=big)
    narrow = np.rint(pixels * (255 / 65535)).astype(np.uint8)
    wanted = encoding.replace("16", "8")
    assert np.array_equal(decode(wide, pixels.shape, encoding=wanted), narrow)
    again = decode(image(narrow, wanted), pixels.shape, "uint16", encoding=encoding)
    assert np.array_equal(again, narrow.astype(np.uint16) * 257)


def test_encodings_without_a_colour_are_grey_and_bgr() -> None:
    grey, bgr = noise(HEIGHT, WIDTH, 1), noise(HEIGHT, WIDTH, 3)
    assert np.array_equal(decode(image(grey, "8UC1"), grey.shape), grey)
    assert np.array_equal(decode(image(bgr, "8UC3"), bgr.shape), bgr[..., ::-1])
    assert np.array_equal(decode(image(bgr, "8UC3"), bgr.shape, encoding="bgr8"), bgr)
    depth = noise(HEIGHT, WIDTH, 1, dtype="uint16")
    assert np.array_equal(decode(image(depth, "mono16"), depth.shape, "uint16", encoding="16UC1"), depth)


@pytest.mark.parametrize(
    ("encoding", "changes", "text"),
    [
        ("nv12", {"height": HEIGHT * 3 // 2}, r"the data step × 1\.5 × height bytes"),
        ("yuv422", {"width": WIDTH - 1, "step": 2 * WIDTH}, "of 31 × 24 cannot be converted"),
        ("yuv422", {"step": WIDTH}, "step must be at least 64"),
    ],
)
def test_a_mosaic_that_contradicts_its_size_is_unusable(encoding: str, changes: dict[str, int], text: str) -> None:
    message = image(stored(encoding), encoding, HEIGHT)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(UnusableReading, match=text):
        decode(message, (HEIGHT, WIDTH, 3))


@pytest.mark.both_distributions
@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize(("encoding", "channels"), [("rgb8", 3), ("bgr8", 3), ("rgb8", 1)])
def test_pixels_of_the_wanted_size_are_written_into_the_row_at_once(encoding: str, channels: int, padding: int) -> None:
    """Nothing else of their size is allocated, neither by NumPy nor for OpenCV's results, which are arrays of NumPy."""
    raw = serialize_message(image(noise(120, 160, 3), encoding, padding=padding))
    decoder, rows = decoder_of((120, 160, channels)), np.zeros((2, 120, 160, channels), np.uint8)
    decoder.decode(raw, rows[0])
    tracemalloc.start()
    decoder.decode(raw, rows[1])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < rows[1].nbytes / 4
    assert rows[1].any() and np.array_equal(rows[0], rows[1])


# Resizing


def test_nearest_pixels_are_those_of_opencv() -> None:
    pixels = noise(HEIGHT, WIDTH, 3)
    expected = cv2.resize(pixels, (10, 7), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(decode(image(pixels, "rgb8"), (7, 10, 3), resize="nearest"), expected)


@pytest.mark.parametrize(("height", "width"), [(24, 32), (32, 24), (25, 32)])
def test_a_crop_is_the_middle_of_the_policys_aspect(height: int, width: int) -> None:
    pixels = noise(height, width, 3)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = pixels[top : top + side, left : left + side]
    expected = cv2.resize(middle, (8, 8), interpolation=cv2.INTER_AREA)
    assert np.array_equal(decode(image(pixels, "rgb8"), (8, 8, 3), resize="crop"), expected)


def test_a_pad_keeps_the_aspect_within_zeros() -> None:
    pixels = noise(24, 32, 3)
    out = decode(image(pixels, "rgb8"), (16, 16, 3), resize="pad")
    assert np.array_equal(out[2:14], cv2.resize(pixels, (16, 12), interpolation=cv2.INTER_AREA))
    assert not out[:2].any() and not out[14:].any()
    tall = decode(image(pixels.transpose(1, 0, 2), "rgb8"), (16, 16, 3), resize="pad")
    assert not tall[:, :2].any() and tall[:, 2:14].any() and not tall[:, 14:].any()


@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    wanted=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    resize=st.sampled_from(["area", "nearest", "crop", "pad"]),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
)
def test_any_size_fits_any_other(source: tuple[int, int], wanted: tuple[int, int], resize: str, dtype: str) -> None:
    """An image of one value keeps it wherever it is shown, at any size."""
    encoding = {"uint8": "rgb8", "uint16": "16UC1", "float32": "32FC1"}[dtype]
    channels = 3 if dtype == "uint8" else 1
    message = image(np.full((*source, channels), 7, dtype), encoding)
    out = decode(message, (*wanted, channels), dtype, resize=resize)
    shown = out[out != 0] if resize == "pad" else out
    assert shown.size and np.allclose(shown, 7)


def test_an_aspect_that_changes_is_noted_once() -> None:
    decoder, out = decoder_of((16, 16, 3)), np.zeros((16, 16, 3), np.uint8)
    raw = serialize_message(image(noise(24, 32, 3), "rgb8"))
    for _ in range(3):
        decoder.decode(raw, out)
    (text,) = decoder.notices
    assert text.startswith("images of 32 × 24 are resized to 16 × 16, which changes their aspect; set `resize`")
    for resize in ("crop", "pad"):
        quiet = decoder_of((16, 16, 3), resize=resize)
        quiet.decode(raw, out)
        assert not quiet.notices
    same_aspect = decoder_of((12, 16, 3))
    same_aspect.decode(raw, np.zeros((12, 16, 3), np.uint8))
    assert not same_aspect.notices


# Depth


def test_millimetres_become_metres_and_back() -> None:
    depth = np.array([[1, 250, 65535], [1000, 2, 3]], np.uint16)[..., None]
    metres = decode(image(depth, "16UC1"), depth.shape, "float32", high=100.0)
    assert np.allclose(metres, depth * 0.001, rtol=1e-6)
    assert np.array_equal(decode(image(metres, "32FC1"), depth.shape, "uint16"), depth)


def test_the_unit_of_a_camera_is_chosen() -> None:
    depth = np.array([[10000, 5, 4]], np.uint16)[..., None]
    tenths = decode(image(depth, "16UC1"), depth.shape, "float32", depth_scale=0.0001)
    assert tenths.ravel().tolist() == pytest.approx([1.0, 0.0005, 0.0004])
    assert decode(image(depth, "16UC1"), depth.shape, "uint16", depth_scale=0.0001).ravel().tolist() == [1000, 0, 0]


def test_distances_beyond_16_bits_become_the_largest() -> None:
    depth = np.array([[1.0, 70.0, np.nan, np.inf]], np.float32)[..., None]
    assert decode(image(depth, "32FC1"), depth.shape, "uint16").ravel().tolist() == [1000, 65535, 0, 65535]


@pytest.mark.parametrize(("encoding", "hole"), [("16UC1", 0), ("32FC1", 0.0), ("32FC1", np.nan)])
@pytest.mark.parametrize("resize", ["area", "crop", "pad"])
def test_a_hole_does_not_bleed_into_its_neighbours(encoding: str, hole: float, resize: str) -> None:
    depth = np.full((8, 8, 1), 2000, np.uint16) if encoding == "16UC1" else np.full((8, 8, 1), 2.0, np.float32)
    depth[0, 0] = hole
    depth[4:, 4:] = hole
    out = decode(image(depth, encoding), (2, 2, 1), "float32", resize=resize)
    assert out[..., 0].tolist() == [[2.0, 2.0], [2.0, 0.0]]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("shape", [(4, 4, 1), (2, 2, 1)])
def test_every_kind_of_hole_gets_the_chosen_value(dtype: str, shape: tuple[int, ...]) -> None:
    holes = [0.0, np.nan, np.inf, -np.inf] if dtype == "float32" else [0] * 4
    depth = np.full((4, 4, 1), 3, dtype)
    depth[2:, 2:, 0] = np.reshape(holes, (2, 2))
    encoding = "32FC1" if dtype == "float32" else "16UC1"
    scale = {} if dtype == "float32" else {"depth_scale": 0.001}
    out = decode(image(depth, encoding), shape, dtype, hole_value=[5.0], **scale)
    half = shape[0] // 2
    assert np.all(out[half:, half:] == 5) and np.all(out[:half] == 3) and np.all(out[:, :half] == 3)
    # Also where nothing was measured at all.
    assert np.all(decode(image(np.zeros_like(depth), encoding), shape, dtype, hole_value=[5.0]) == 5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (2, 2, 1)])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("holes", [[0], [0.0], [0.0, np.nan]], ids=["16UC1", "32FC1", "32FC1 with NaN"])
def test_depth_in_which_nothing_was_measured_is_refused(holes: list[float], dtype: str, shape: tuple[int, ...]) -> None:
    encoding = "16UC1" if isinstance(holes[0], int) else "32FC1"
    depth = np.resize(np.array(holes, np.uint16 if encoding == "16UC1" else np.float32), (8, 8, 1))
    with pytest.raises(UnusableReading, match=r"no pixel was measured; look at the camera, or set hole_value"):
        decode(image(depth, encoding), shape, dtype)
    assert np.all(decode(image(depth, encoding), shape, dtype, hole_value=[0.0]) == 0)
    # One distance is enough.
    depth[3, 3] = 2
    assert np.count_nonzero(decode(image(depth, encoding), shape, dtype)) == 1


@pytest.mark.parametrize(("infinity", "bound"), [(-np.inf, 0.0), (np.inf, 10.0)])
def test_depth_that_is_too_near_or_too_far_everywhere_was_measured(infinity: float, bound: float) -> None:
    depth = np.full((4, 4, 1), infinity, np.float32)
    assert np.all(decode(image(depth, "32FC1"), depth.shape, "float32") == bound)
    assert np.all(decode(image(depth, "32FC1"), depth.shape, "float32", hole_value=[5.0]) == 5.0)


def test_padding_of_depth_has_the_value_of_holes() -> None:
    out = decode(
        image(np.full((4, 8, 1), 2.0, np.float32), "32FC1"), (4, 4, 1), "float32", resize="pad", hole_value=[9.0]
    )
    assert out[..., 0].tolist() == [[9.0] * 4, [2.0] * 4, [2.0] * 4, [9.0] * 4]


# Compressed images


def png(pixels: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(".png", pixels)
    assert encoded
    return data.tobytes()


def rvl(depth: np.ndarray) -> bytes:
    """Encode depth `[height, width]` uint16 as the paper has it, number by number."""
    nibbles: list[int] = []

    def put(number: int) -> None:
        while True:
            digit, number = number & 7, number >> 3
            nibbles.append(digit | 8 if number else digit)
            if not number:
                return

    pixels, at, before = depth.ravel().tolist(), 0, 0
    while at < len(pixels):
        for is_zero in (True, False):
            start = at
            while at < len(pixels) and (pixels[at] == 0) is is_zero:
                at += 1
            put(at - start)
        for pixel in pixels[start:at]:
            difference, before = pixel - before, pixel
            put(2 * difference if difference >= 0 else -2 * difference - 1)
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{nibble:x}" for nibble in nibbles[at : at + 8]), 16) for at in range(0, len(nibbles), 8)]
    return struct.pack(f"<II{len(words)}I", depth.shape[1], depth.shape[0], *words)


def compressed_depth(data: bytes, text: str, a: float = 0.0, b: float = 0.0) -> CompressedImage:
    return CompressedImage(format=text, data=struct.pack("<iff", 0, a, b) + data)


DEPTH_MM = np.where(RNG.random((12, 17)) < 0.2, 0, RNG.integers(300, 9000, (12, 17))).astype(np.uint16)


@pytest.mark.both_distributions
@pytest.mark.parametrize("text", ["16UC1; compressedDepth", "16UC1; compressedDepth png", "16UC1; compressedDepth rvl"])
def test_compressed_depth_in_millimetres(text: str) -> None:
    message = compressed_depth(rvl(DEPTH_MM) if "rvl" in text else png(DEPTH_MM), text)
    assert np.array_equal(decode(message, (12, 17, 1), "uint16")[..., 0], DEPTH_MM)
    assert np.allclose(decode(message, (12, 17, 1), "float32")[..., 0], DEPTH_MM * 0.001)


@pytest.mark.parametrize("method", ["png", "rvl"])
def test_compressed_depth_in_metres_is_quantised_inversely(method: str) -> None:
    # As compressed_depth_image_transport does it with its defaults.
    quantisation, largest_m = 100.0, 10.0
    a = quantisation * (quantisation + 1.0)
    b = 1.0 - a / largest_m
    metres = DEPTH_MM * 0.001
    with np.errstate(divide="ignore"):
        quantised = np.where(DEPTH_MM > 0, a / metres + b, 0).astype(np.uint16)
    data = png(quantised) if method == "png" else rvl(quantised)
    out = decode(compressed_depth(data, f"32FC1; compressedDepth {method}", a, b), (12, 17, 1), "float32")[..., 0]
    assert np.all(out[DEPTH_MM == 0] == 0)
    # A step of the quantisation is coarser the farther a pixel is.
    assert np.all(np.abs(out - metres) <= metres**2 / a + 1e-6)


@given(st.lists(st.sampled_from([0, 0, 1, 7, 500, 501, 65535]), min_size=6, max_size=60))
def test_rvl_is_lossless(pixels: list[int]) -> None:
    depth = np.array(pixels[: len(pixels) // 2 * 2], np.uint16).reshape(2, -1)
    message = compressed_depth(rvl(depth), "16UC1; compressedDepth rvl")
    # Without it an image of zeros alone would be refused.
    assert np.array_equal(decode(message, (*depth.shape, 1), "uint16", hole_value=[0.0])[..., 0], depth)


@pytest.mark.parametrize(
    ("data", "text", "reason"),
    [
        (rvl(DEPTH_MM)[:7], "16UC1; compressedDepth rvl", "cut within its size"),
        (rvl(DEPTH_MM)[:-8], "16UC1; compressedDepth rvl", "is cut"),
        (b"\xff\xff\xff\xff" * 2, "16UC1; compressedDepth rvl", "4294967295 × 4294967295 pixels"),
        (struct.pack("<II", 4, 1) + b"\x88" * 16, "16UC1; compressedDepth rvl", "is cut"),
        (struct.pack("<II", 4, 1) + b"\xff" * 12 + b"\x07\0\0\0", "16UC1; compressedDepth rvl", "number is too long"),
        (struct.pack("<III", 1, 1, 0x01100000), "16UC1; compressedDepth rvl", "does not fit 16 bits"),
        (struct.pack("<III", 1, 1, 0x02200000), "16UC1; compressedDepth rvl", "do not fill the image"),
        (png(noise(4, 5)), "16UC1; compressedDepth png", "a PNG of mono8; one channel of 16 bits"),
        (png(DEPTH_MM), "bgr8; compressedDepth png", "compressed depth of 'bgr8'; 16UC1 and 32FC1 are allowed"),
    ],
)
def test_damaged_compressed_depth_is_unusable(data: bytes, text: str, reason: str) -> None:
    with pytest.raises(UnusableReading, match=reason):
        decode(compressed_depth(data, text), (4, 4, 1), "uint16")


def test_a_png_of_16_bits_is_grey_where_its_publisher_says_so() -> None:
    grey = noise(HEIGHT, WIDTH, 1, dtype="uint16")
    expected = np.rint(grey * (255 / 65535)).astype(np.uint8)
    assert np.array_equal(
        decode(CompressedImage(format="mono16; png compressed ", data=png(grey)), grey.shape), expected
    )
    with pytest.raises(UnusableReading, match="encoding '16UC1' cannot become 'mono8'"):
        decode(CompressedImage(format="png", data=png(grey)), grey.shape)


def test_another_number_of_channels_in_a_compressed_image_is_noted() -> None:
    decoder = decoder_of((HEIGHT, WIDTH, 3), kind=COMPRESSED_IMAGE)
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for channels in (3, 1, 1, 3):
        decoder.decode(serialize_message(CompressedImage(data=png(noise(HEIGHT, WIDTH, channels)))), out)
    assert list(decoder.notices) == ["compressed images of mono8 are converted to the rgb8 of the policy"]
