# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The node runs no code of policy files unless it trusts them."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from node_harness import LifecycleClient, NodeProcess, Peer, ScriptedFleet, parameters_of
from test_trust import Payload, entry, rewrite, statistics_pickle

from policy_node.cli.export import export_policy

ROBOTS = ("robot_0",)
SAFE = [0.0625, -0.125]
PARAMETERS = {"action.safe_command": SAFE, "synchronisation.max_age_s": 5.0, "policy.trusted": None}
TRUST = "or set trusted (in the node's configuration `policy.trusted: true`) if you know where it comes from"

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]


def driven(fleet: ScriptedFleet) -> bool:
    """Whether the robot's newest command comes from the policy."""
    newest = fleet.newest(ROBOTS[0])
    return newest is not None and not np.array_equal(newest, SAFE)


@pytest.fixture(scope="module")
def hostile(model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    """Return files of every format that can run code, and the file that their code touches."""
    folder = tmp_path_factory.mktemp("hostile")
    mark = folder / "it ran"
    payload = Payload(mark)
    files = {"zip": rewrite(model()[0], folder / "model.zip", entry("observation_space", payload))}
    for suffix in ("pt", "pt2"):
        files[suffix] = folder / f"model.{suffix}"
        torch.save({"a": payload}, files[suffix])
        with zipfile.ZipFile(files[suffix], "a") as archive:
            # As files of TorchScript and torch.export have them.
            archive.writestr("model/code/__torch__.py" if suffix == "pt" else "model/models/model.json", "")
    files["pickle"] = folder / "vecnormalize.pkl"
    files["pickle"].write_bytes(statistics_pickle(payload=payload))
    return files, mark


def test_a_file_that_can_run_code_is_refused_until_it_is_trusted(
    model: Model, hostile: tuple[dict[str, Path], Path], peer: Peer, start_node: StartNode
) -> None:
    files, mark = hostile
    model_file, _ = model()
    process = start_node(parameters_of(model_file, ROBOTS, PARAMETERS))
    operator = LifecycleClient(peer, process.full_name)
    process.wait_for("The node stays alive")
    assert f"policy file '{model_file}' can run code when it is loaded and is not trusted" in process.text
    assert "export it to a bundle with policy_export, which is data only" in process.text and TRUST in process.text
    for suffix, remedy in (("zip", "bundle with policy_export"), ("pt", "ONNX"), ("pt2", "ONNX")):
        start = len(process.text)
        assert operator.set(policy__path=str(files[suffix])) == ""
        assert not operator.change("configure")
        process.wait_for("The node stays alive", start)
        assert remedy in process.text[start:] and TRUST in process.text[start:]
    assert not mark.exists()

    # Trusted, the payload of the statistics still does not run: no more is unpickled than is needed.
    assert operator.set(policy__path=str(model_file), policy__vecnormalize=str(files["pickle"])) == ""
    assert not operator.change("configure")
    assert operator.set(policy__trusted=True) == ""
    assert not operator.change("configure")
    process.wait_for("UnpicklingError: it holds pathlib")
    assert not mark.exists()
    assert operator.set(policy__vecnormalize="") == ""
    assert operator.change("configure")


def test_a_malicious_file_runs_no_code_while_a_bundle_drives(
    model: Model, hostile: tuple[dict[str, Path], Path], peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    files, mark = hostile
    bundle = tmp_path / "model.bundle"
    export_policy(model()[0], "bundle", bundle)
    process = start_node(parameters_of(bundle, ROBOTS, PARAMETERS))
    operator = LifecycleClient(peer, process.full_name)
    fleet = ScriptedFleet(peer, ROBOTS)
    fleet.drive(lambda: driven(fleet), "commands of the bundle")
    for suffix in ("zip", "pt", "pt2"):
        refused = operator.set(policy__path=str(files[suffix]))
        assert f"policy file '{files[suffix]}' can run code when it is loaded and is not trusted" in refused
        assert TRUST in refused
    assert "policy.trusted: parameters are read at configure" in operator.set(policy__trusted=True)
    assert "leave vecnormalize out" in operator.set(policy__vecnormalize=str(files["pickle"]))
    assert operator.get("policy.path", "policy.trusted", "policy.vecnormalize") == [str(bundle), False, ""]
    fleet.clear()
    fleet.drive(lambda: driven(fleet), "commands of the bundle")
    # Data only: another bundle needs no trust.
    another = tmp_path / "another.bundle"
    export_policy(model(seed=5)[0], "bundle", another)
    assert operator.set(policy__path=str(another)) == ""
    process.wait_for("the policy is now")
    assert not mark.exists()

    tampered = bytearray(another.read_bytes())
    position = tampered.index(b"weights.safetensors") + 8000
    tampered[position] ^= 0x40
    another.write_bytes(tampered)
    refused = operator.set(policy__path=str(another))
    assert str(another) in refused and "The present policy goes on." in refused
