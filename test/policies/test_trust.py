# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Hostile files: what is not trusted runs nothing, and what no program writes is refused."""

import base64
import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parity_cases as cases
import pytest
import torch
from policy_conformance import load_trusted
from stable_baselines3.common.vec_env import VecNormalize

from policy_node.policies import PolicyError, load_policy
from policy_node.policies.vecnormalize import read_vecnormalize

NOT_TRUSTED = r"can run code .* is not trusted; export it to a bundle with policy_export, .* or set trusted"


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = cases.Case("PPO", "vector")
    file = tmp_path_factory.mktemp("trust") / "model.zip"
    cases.make_model(case, cases.make_environments(case, "Box")[1]).save(file)
    return file


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return the file that a payload touches."""
    return tmp_path / "it ran"


def rewrite(file: Path, target: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Path:
    """Copy a model with changes to its members."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, changes.get(name, bytes)(source.read(name)))
    return target


def entry(key: str, value: Any) -> dict[str, Callable[[bytes], bytes]]:
    def change(data: bytes) -> bytes:
        serialized = base64.b64encode(pickle.dumps(value)).decode()
        return json.dumps({**json.loads(data), key: {":type:": "", ":serialized:": serialized}}).encode()

    return {"data": change}


def torch_file(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


@pytest.mark.parametrize("key", ["observation_space", "action_space", "policy_class", "lr_schedule", "another"])
def test_a_payload_in_the_description_runs_only_when_trusted(
    key: str, model_file: Path, mark: Path, tmp_path: Path
) -> None:
    file = rewrite(model_file, tmp_path / "model.zip", entry(key, Payload(mark)))
    with pytest.raises(PolicyError, match=NOT_TRUSTED):
        load_policy(file)
    assert not mark.exists()
    if key in ("lr_schedule", "another"):
        load_trusted(file)
        assert not mark.exists()
    else:
        with pytest.raises(PolicyError):
            load_trusted(file)
        # Spaces are read as data. The class shows that the payload is one.
        assert mark.exists() == (key == "policy_class")


def test_a_payload_in_the_weights_never_runs(model_file: Path, mark: Path, tmp_path: Path) -> None:
    weights = torch_file({"action_net.weight": Payload(mark)})
    file = rewrite(model_file, tmp_path / "model.zip", {"policy.pth": lambda _: weights})
    with pytest.raises(PolicyError, match=NOT_TRUSTED):
        load_policy(file)
    with pytest.raises(PolicyError, match=r"cannot be built \(UnpicklingError"):
        load_trusted(file)
    assert not mark.exists()


def statistics_pickle(**additions: Any) -> bytes:
    _, venv = cases.make_environments(cases.Case("PPO", "vector"), "Box")
    wrapped = VecNormalize(venv, norm_reward=False)
    wrapped.reset()
    for name, value in additions.items():
        setattr(wrapped, name, value)
    return pickle.dumps(wrapped)


def test_a_payload_in_the_statistics_never_runs(model_file: Path, mark: Path, tmp_path: Path) -> None:
    file = tmp_path / "vecnormalize.pkl"
    for content in (
        pickle.dumps(Payload(mark)),
        statistics_pickle(another=Payload(mark)),
        statistics_pickle(obs_rms=Payload(mark)),
    ):
        file.write_bytes(content)
        with pytest.raises(PolicyError, match=r"cannot be read \(UnpicklingError: it holds pathlib.*does not belong"):
            load_trusted(model_file, vecnormalize=file)
        with pytest.raises(PolicyError, match=NOT_TRUSTED):
            load_policy(model_file, vecnormalize=file)
        assert not mark.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr", "posix.system", "torch.load"])
def test_functions_in_the_statistics_are_refused(name: str, tmp_path: Path) -> None:
    module, function = name.split(".")
    file = tmp_path / "vecnormalize.pkl"
    file.write_bytes(f"c{module}\n{function}\n(V\ntR.".encode())
    with pytest.raises(PolicyError, match=f"it holds {name}, which does not belong there"):
        read_vecnormalize(file)


def test_functions_of_the_packages_inside_are_not_called(tmp_path: Path) -> None:
    target = tmp_path / "saved.npy"
    file = tmp_path / "vecnormalize.pkl"
    file.write_bytes(f"cnumpy\nsave\n(V{target}\nI1\ntR.".encode())
    with pytest.raises(PolicyError, match="give the file that VecNormalize"):
        read_vecnormalize(file)
    assert not target.exists()


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_statistics_of_every_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    _, venv = cases.make_environments(cases.Case("PPO", "Dict"), "Box")
    wrapped = VecNormalize(venv, norm_obs_keys=["touch"], clip_obs=np.float64(3.0), epsilon=1e-3)
    wrapped.reset()
    file = tmp_path / "vecnormalize.pkl"
    file.write_bytes(pickle.dumps(wrapped, protocol))
    statistics = read_vecnormalize(file)
    assert list(statistics) == ["touch"]
    found, expected = statistics["touch"], wrapped.obs_rms["touch"]
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.deviation, np.sqrt(expected.var + 1e-3))
    assert found.clip == 3.0
    assert found.raw_dtype == np.float32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOFError"),
        (b"not a pickle", "UnpicklingError"),
        (statistics_pickle()[:-200], "cannot be read"),
        (pickle.dumps({"obs_rms": 1}), "AttributeError"),
        (statistics_pickle(obs_rms=None), "AttributeError"),
        (statistics_pickle(clip_obs="ten"), "ValueError"),
    ],
)
def test_other_statistics_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "vecnormalize.pkl"
    file.write_bytes(content)
    with pytest.raises(PolicyError, match=f"{message}.*give the file that VecNormalize"):
        read_vecnormalize(file)
    with pytest.raises(PolicyError, match="missing' cannot be read: No such file"):
        read_vecnormalize(tmp_path / "missing")


def test_an_absurd_shape_in_the_statistics_allocates_nothing(tmp_path: Path) -> None:
    file = tmp_path / "vecnormalize.pkl"
    file.write_bytes(b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L1125899906842624L\ntVb\ntR.")
    # Not a MemoryError.
    with pytest.raises(PolicyError, match="AttributeError: '_Array'"):
        read_vecnormalize(file)


def test_another_hash_is_refused_before_anything_is_read(model_file: Path, mark: Path, tmp_path: Path) -> None:
    known = hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert load_trusted(model_file, sha256=known.upper()).spec.sha256 == known
    file = rewrite(model_file, tmp_path / "model.zip", entry("observation_space", Payload(mark)))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(PolicyError, match=rf"has the SHA-256 {found}, but {known} is wanted"):
        load_trusted(file, sha256=known)
    assert not mark.exists()


def test_archives_that_unpack_to_absurd_sizes_are_refused(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    bomb = bytes(30_000_000)
    for member in ("data", "policy.pth", "another"):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, bomb)
        with pytest.raises(PolicyError, match=f"'{member}' unpacks to 30000000 bytes, allowed are"):
            load_trusted(file)
    # One archive down, where the weights are.
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bomb)
    rewrite(model_file, file, {"policy.pth": lambda _: inner.getvalue()})
    with pytest.raises(PolicyError, match=r"policy\.pth' is refused: its member 'archive/data/0' unpacks to"):
        load_trusted(file)


def test_a_size_that_lies_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(30_000_000))
    content = file.read_bytes()
    file.write_bytes(content.replace((30_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(PolicyError, match="cut off or damaged"):
        load_trusted(file)


@pytest.mark.parametrize("name", ["/etc/passwd", "../data", "folder/../../data", "..\\data", "C:\\data"])
def test_members_outside_of_the_archive_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "{}")
    with pytest.raises(PolicyError, match="lies outside of it; get it again from somebody whom you trust"):
        load_trusted(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_and_countless_members_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("data", "{}")
    with pytest.raises(PolicyError, match="has two members 'data'"):
        load_trusted(file)
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(10_001):
            archive.writestr(str(index), "")
    with pytest.raises(PolicyError, match="has 10001 members, allowed are 10000"):
        load_trusted(file)
