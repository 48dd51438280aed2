# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format of a policy file is seen by its content; files without a policy are named with what to do."""

import gzip
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from policy_node.policies import PolicyError, PolicyInterface, load_policy
from policy_node.policies.archive import member_names
from policy_node.policies.formats import FORMATS, format_of, format_of_content

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 1002844\n" % (b"0" * 64)
LINEAR = PolicyInterface(inputs={"touch": "touch"}, shapes={"touch": (3,)})


def archive(**members: bytes) -> bytes:
    """Return a zip archive; two underscores in a name stand for a slash."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        for name, content in members.items():
            written.writestr(name.replace("__", "/"), content)
    return stream.getvalue()


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(stream)
    return stream.getvalue()


def torchscript() -> bytes:
    return saved(lambda stream: torch.jit.save(torch.jit.script(nn.Linear(3, 2)), stream))


def checkpoint(legacy: bool) -> bytes:
    weights = {"network": nn.Linear(3, 2).state_dict(), "updates": 100}
    return saved(lambda stream: torch.save(weights, stream, _use_new_zipfile_serialization=not legacy))


def onnx_model() -> bytes:
    return (Path(__file__).parents[1] / "data" / "point_mass.onnx").read_bytes()


CONTENTS: dict[str, Callable[[], bytes]] = {
    "torchscript": torchscript,
    "onnx": onnx_model,
    "sb3": lambda: archive(data=b"{}", **{"policy.pth": b"", "policy.optimizer.pth": b""}),
    "bundle": lambda: archive(**{"policy.json": b"{}", "weights.safetensors": b""}),
    "exported": lambda: archive(a__archive_format=b"pt2", **{"a__models__model.json": b"{}"}),
}
UNUSABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "Git LFS pointer": (lambda: LFS_POINTER, "is a Git LFS pointer in place of the file; run `git lfs pull`"),
    "checkpoint": (lambda: checkpoint(False), "is a training checkpoint of torch.save: .* without .*; export the"),
    "old checkpoint": (lambda: checkpoint(True), "is a training checkpoint of torch.save: .* without .*; export the"),
    "safetensors": (
        lambda: struct.pack("<Q", 2) + b"{}",
        r"is a safetensors file: weights without a network to run; export the policy .* ONNX \(torch\.onnx\.export\)",
    ),
    "pickle": (lambda: pickle.dumps({"a": 1}), "is a Python pickle, which is no policy format; export the"),
    "VecNormalize": (
        lambda: b"\x80\x04cstable_baselines3.common.vec_env.vec_normalize\nVecNormalize\n.",
        r"is the file of VecNormalize\.save\(\), which holds no policy; give it as policy\.vecnormalize",
    ),
    "cut off": (lambda: torchscript()[:-200], r"is cut off or damaged after \d+ bytes"),
    "web page": (lambda: b"\n<!DOCTYPE html>\n<html>", "is a web page in place of the file; download the file itself"),
    "Keras": (lambda: archive(**{"config.json": b"", "model.weights.h5": b""}), "is a file of Keras or HDF5; convert"),
    "AOTInductor": (lambda: archive(a__data__aotinductor__model=b""), "is a package that AOTInductor compiled; give"),
    "TensorRT": (lambda: b"ftrt" + bytes(90), "is an engine that TensorRT compiled for one GPU; give the ONNX file"),
    "TensorFlow Lite": (lambda: bytes(4) + b"TFL3" + bytes(90), "is a TensorFlow Lite file; convert it to ONNX"),
    "packed": (lambda: archive(**{"folder/policy.onnx": b""}), "is an archive that holds other files; unpack it"),
    "gzip": (lambda: gzip.compress(b"policy"), "is an archive that holds other files; unpack it"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(90), "is a file of Keras or HDF5; convert it to ONNX"),
}


@pytest.mark.parametrize("suffix", [".pth", ".jit", ".pt", ".zip", ".onnx", ""])
@pytest.mark.parametrize("name", CONTENTS)
def test_the_content_tells_the_format_whatever_the_suffix(name: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"policy{suffix}"
    file.write_bytes(CONTENTS[name]())
    assert format_of(str(file)) is FORMATS[name]
    assert [one.name for one in FORMATS if one.matches is not None and one.matches(file.read_bytes())] == [name]


@pytest.mark.parametrize("suffix", [".pth", ".jit"])
def test_a_torchscript_file_is_loaded_under_any_suffix(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"policy{suffix}"
    file.write_bytes(torchscript())
    assert load_policy(file, trusted=True, interface=LINEAR).spec.algorithm == "TorchScript"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".onnx", ".zip", ".bundle", ""])
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_without_a_policy_is_named_with_what_to_do(name: str, suffix: str, tmp_path: Path) -> None:
    make, message = UNUSABLE[name]
    file = tmp_path / f"policy{suffix}"
    file.write_bytes(make())
    with pytest.raises(PolicyError, match=rf"^policy file '{file}' {message}"):
        load_policy(file)


def test_a_named_format_wins_and_its_error_names_the_content(tmp_path: Path) -> None:
    file = tmp_path / "policy.pt"
    file.write_bytes(onnx_model())
    assert format_of(str(file), "torchscript") is FORMATS["torchscript"]
    with pytest.raises(
        PolicyError,
        match=r"is no zip archive .*; its content is that of an ONNX file, but the format is 'torchscript'; "
        "use 'onnx' or 'auto'",
    ):
        load_policy(file, trusted=True, format="torchscript")
    file.write_bytes(LFS_POINTER)
    with pytest.raises(PolicyError, match="by its content, it is a Git LFS pointer"):
        load_policy(file, trusted=True, format="onnx")


def test_a_content_that_can_run_code_needs_trust_under_any_suffix(tmp_path: Path) -> None:
    for name in ("sb3", "torchscript", "exported"):
        file = tmp_path / "policy.bundle"
        file.write_bytes(CONTENTS[name]())
        with pytest.raises(PolicyError, match="can run code when it is loaded and is not trusted"):
            load_policy(file)


def test_a_content_and_a_suffix_that_tell_nothing_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "model.v1"
    file.write_bytes(b"something else")
    with pytest.raises(
        PolicyError,
        match=r"neither a content \(it starts with b'somethin'\) nor a suffix that tells its format; known suffixes "
        r"are .*\.onnx, .*\.zip.*`policy\.format`",
    ):
        load_policy(file)


def test_an_archive_that_is_cut_off_is_no_archive_of_what_lies_inside() -> None:
    # The weights of Stable-Baselines3 are an archive, whose directory is at the end of a file that is cut off there.
    content = archive(data=b"{}", **{"policy.pth": checkpoint(False)})
    cut = content[: content.rindex(b"PK\x05\x06", 0, content.rindex(b"PK\x05\x06")) + 22]
    assert zipfile.is_zipfile(io.BytesIO(cut))
    assert member_names(cut) == frozenset() and format_of_content(cut) is None


STARTS = [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x08\x07", b"\x3a", LFS_POINTER, b"\x89HDF\r\n"]
PIECES = [make() for make in CONTENTS.values()] + [checkpoint(False), checkpoint(True)]


@given(st.data())
def test_any_content_gives_a_format_or_a_policy_error(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(STARTS)) + data.draw(st.binary())
    if data.draw(st.booleans(), label="damaged"):
        content = bytearray(data.draw(st.sampled_from(PIECES)))
        content[data.draw(st.integers(0, len(content) - 1)) :: data.draw(st.integers(1, 5000))] = b""
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        content[place : place + 4] = data.draw(st.binary(max_size=8))
        content = bytes(content)
    path = data.draw(st.sampled_from(["policy.pt", "policy.zip", "policy.onnx", "policy"]))
    try:
        assert format_of(path, content=content).name in FORMATS.names
    except PolicyError as error:
        assert path in str(error)


def test_the_members_of_an_archive_are_listed() -> None:
    assert member_names(archive(a=b"", b__c=json.dumps({}).encode())) == {"a", "b/c"}
