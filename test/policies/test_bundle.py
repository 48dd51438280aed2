# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles: data only, and refused when they were changed."""

import hashlib
import json
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parity_cases as cases
import pytest
import torch
from parity_cases import Case
from policy_conformance import example_observations, load_trusted
from safetensors.numpy import load, save

from policy_node.cli.export import export_policy
from policy_node.policies import PolicyError, PolicyInterface, load_policy
from policy_node.policies.bundle import DESCRIPTION, GOLDEN, WEIGHTS, _description_hash
from policy_node.policies.spaces import space_from_json

Change = Callable[[dict[str, bytes]], None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = Case("PPO", "vector", actions=("Box",))
    folder = tmp_path_factory.mktemp("bundle")
    cases.make_model(case, cases.make_environments(case, "Box")[1]).save(folder / "model.zip")
    export_policy(folder / "model.zip", "bundle", folder / "policy.bundle")
    return folder / "policy.bundle"


def rewrite(bundle: Path, target: Path, change: Change, sign: bool = False) -> Path:
    """Copy a bundle with changes; `sign` makes all hashes fit again, as who knows the format can."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if sign:
        data = json.loads(members[DESCRIPTION])
        data.pop("description_sha256")
        data["sha256"] = {name: hashlib.sha256(members[name]).hexdigest() for name in (WEIGHTS, GOLDEN)}
        members[DESCRIPTION] = json.dumps({**data, "description_sha256": _description_hash(data)}).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def describe(**changes: Any) -> Change:
    def change(members: dict[str, bytes]) -> None:
        members[DESCRIPTION] = json.dumps({**json.loads(members[DESCRIPTION]), **changes}).encode()

    return change


def flip(member: str) -> Change:
    def change(members: dict[str, bytes]) -> None:
        content = bytearray(members[member])
        content[-7] ^= 1
        members[member] = bytes(content)

    return change


def spoil(member: str, name: str, factor: float) -> Change:
    def change(members: dict[str, bytes]) -> None:
        arrays = load(members[member])
        arrays[name] = (arrays[name] * factor).astype(arrays[name].dtype)
        members[member] = save(arrays)

    return change


def test_a_bundle_runs_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    policy = load_policy(bundle, trusted=False)
    assert policy.spec.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()


def test_a_bundle_acts_as_its_source(bundle: Path) -> None:
    source, policy = load_trusted(bundle.with_name("model.zip")), load_policy(bundle)
    observations = example_observations(source, 9, seed=1)
    assert torch.equal(policy(observations, None)[0], source(observations, None)[0])
    drawn = [load_trusted(file, deterministic=False, seed=4) for file in (bundle, bundle.with_name("model.zip"))]
    assert torch.equal(*(one(observations, None)[0] for one in drawn))


def test_the_same_policy_gives_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    export_policy(bundle.with_name("model.zip"), "bundle", tmp_path / "again.bundle")
    assert (tmp_path / "again.bundle").read_bytes() == bundle.read_bytes()


@pytest.mark.parametrize("member", [WEIGHTS, GOLDEN])
def test_a_flipped_bit_is_refused(member: str, bundle: Path, tmp_path: Path) -> None:
    file = rewrite(bundle, tmp_path / "policy.bundle", flip(member))
    with pytest.raises(PolicyError, match=f"its member '{member}' was changed after the export"):
        load_policy(file)


def test_a_changed_description_is_refused(bundle: Path, tmp_path: Path) -> None:
    file = rewrite(bundle, tmp_path / "policy.bundle", describe(use_sde=True))
    with pytest.raises(PolicyError, match=f"its member '{DESCRIPTION}' was changed after the export"):
        load_policy(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(WEIGHTS, "policy.action_net.weight", 1.01), "does not act as it did when it was exported: on cpu"),
        (spoil(WEIGHTS, "policy.mlp_extractor.policy_net.0.bias", -1.0), "does not act as it did"),
        (spoil(WEIGHTS, "policy.action_net.weight", np.nan), "does not act as it did"),
        (spoil(GOLDEN, "actions", 1.01), "does not act as it did"),
        (lambda members: members.update({GOLDEN: save({})}), "the golden vectors in policy file .* are damaged"),
        (lambda members: members.update({GOLDEN: b"nothing"}), "the golden vectors in policy file .* are damaged"),
        (lambda members: members.update({WEIGHTS: save({})}), "network of policy file .* cannot be built"),
        (lambda members: members.update({WEIGHTS: b"nothing"}), "is refused: SafetensorError"),
        (describe(policy_class="os.system"), "its policy class 'os.system' is not in the list"),
        (describe(arguments={"activation_fn": {"class": "builtins.eval"}}), "class 'builtins.eval' is not in the list"),
        (describe(arguments={"net_arch": [10**7, 10**7]}), "a network that is much larger than its weights"),
        (describe(observation_space={"type": "Box", "shape": [10**6, 10**6], "dtype": "float32"}), "is not possible"),
        (describe(action_space={"type": "Tuple"}), "space type 'Tuple' is none of"),
        (describe(spec={"algorithm": "PPO"}), "its spec is not that of its policy"),
        (describe(version=2), "is a bundle of version 2, known is 1; update policy_node"),
        (describe(format="another"), "is no bundle; give a file that policy_export wrote"),
    ],
)
def test_what_was_changed_on_purpose_is_refused(change: Change, message: str, bundle: Path, tmp_path: Path) -> None:
    file = rewrite(bundle, tmp_path / "policy.bundle", change, sign=True)
    with pytest.raises(PolicyError, match=message):
        load_policy(file, trusted=False)


def test_what_is_cut_off_or_missing_is_refused(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "policy.bundle"
    content = bundle.read_bytes()
    for length in (1, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(PolicyError):
            load_policy(file)
    rewrite(bundle, file, lambda members: members.pop(GOLDEN) and None)
    with pytest.raises(PolicyError, match=f"its member '{GOLDEN}' is missing"):
        load_policy(file)
    file.write_bytes(bundle.with_name("model.zip").read_bytes())
    with pytest.raises(PolicyError, match=r"is no bundle; .* its content is that of a \.zip file of Stable-Baselines3"):
        load_policy(file, format="bundle")


def test_statistics_beside_a_bundle_are_refused(bundle: Path) -> None:
    with pytest.raises(PolicyError, match="takes no vecnormalize: export it with its normalisation inside"):
        load_policy(bundle, vecnormalize="vecnormalize.pkl")


@pytest.mark.parametrize(
    ("given", "message", "parameter"),
    [
        ({"low": (-0.5,)}, "policy.low does not apply to a bundle, which describes itself; remove it", "policy.low"),
        ({"memory": (("h", "h_out"),)}, "policy.memory does not apply to a bundle", "policy.memory"),
        ({"discrete": 3}, "policy.discrete does not apply", "policy.discrete"),
        ({"activation": "elu"}, "policy.activation does not apply", "policy.activation"),
        ({"shapes": {"observation": (99,)}}, r"the shape is \[99\], but the policy", "observations.observation.shape"),
    ],
)
def test_values_that_a_bundle_ignores_are_refused(
    given: dict[str, Any], message: str, parameter: str, bundle: Path
) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        load_policy(bundle, interface=PolicyInterface(**given))
    assert caught.value.parameter == parameter


def test_a_long_word_among_the_bounds_takes_no_more_memory_than_its_length() -> None:
    low = ["x" * 5000] + [0] * 1999
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            space_from_json({"type": "Box", "shape": [2000], "dtype": "float32", "low": low, "high": 1})
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
