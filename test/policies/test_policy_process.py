# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What loading a policy does to its process: the packages it imports and the settings of PyTorch it leaves alone."""

import json
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parity_cases as cases
import pytest
import torch
from policy_conformance import assert_same_actions, example_observations, load_trusted
from torch import nn

from policy_node.cli.export import export_policy
from policy_node.config.warning import warn, warnings_to
from policy_node.engines import EngineSettings, choose_engine
from policy_node.policies import Policy, WrappedPolicy, contract, traced
from policy_node.policies.precision import full_precision

CONVOLUTIONS = cases.Case("TD3", "image CHW")
FULL_PRECISION = [False, "ieee", "ieee"]

DEPLOY = """
import json, sys
from policy_node.config.schema import parse_configuration
from policy_node.ros.deployment import deploy
deployment = deploy(parse_configuration(json.loads(sys.argv[1])))
assert deployment.engine.name == "onnxruntime"
print([name for name in sys.argv[2:] if name in sys.modules])
"""


def onnx_file(path: Path) -> Path:
    pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = {"input_names": ["observation"], "output_names": ["action"], "dynamo": False}
        axes = {"observation": {0: "robots"}, "action": {0: "robots"}}
        torch.onnx.export(nn.Linear(3, 2), (torch.zeros(2, 3),), str(path), dynamic_axes=axes, **arguments)
    return path


def test_an_onnx_deployment_does_not_import_the_packages_of_other_formats(tmp_path: Path) -> None:
    parameters = {
        "control_rate_hz": 20.0,
        "robots": ["robot_1", "robot_2"],
        "policy.path": str(onnx_file(tmp_path / "policy.onnx")),
        "observations.keys": ["joints"],
        "observations.joints.topic": "joint_states",
        "observations.joints.type": "sensor_msgs/msg/JointState",
        "action.topic": "cmd_vel",
        "action.type": "geometry_msgs/msg/Twist",
        "action.fields": ["linear.x", "angular.z"],
    }
    others = ["stable_baselines3", "sb3_contrib", "gymnasium", "torch._dynamo"]
    command = [sys.executable, "-c", DEPLOY, json.dumps(parameters), *others]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(case: cases.Case, device: str = "cpu") -> Policy:
    """Make, save and load the model of a case."""
    with tempfile.TemporaryDirectory() as folder:
        _, venv = cases.make_environments(case, "Box")
        cases.make_model(case, venv).save(Path(folder) / "model.zip")
        return load_trusted(Path(folder) / "model.zip", device)


def tf32_settings() -> list[Any]:
    cudnn = torch.backends.cudnn
    return [cudnn.allow_tf32, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision]


@pytest.fixture
def settings_kept() -> Iterator[None]:
    """Let a test change the settings of PyTorch."""
    allowed = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.parametrize("allowed", [True, False])
def test_full_precision_ends_with_the_last_of_the_threads_that_use_it(allowed: bool, settings_kept: None) -> None:
    torch.backends.cudnn.allow_tf32 = allowed
    before = tf32_settings()
    entered, leave = threading.Event(), threading.Event()

    def compute() -> None:
        with full_precision(torch.device("cuda")):
            entered.set()
            leave.wait(10.0)

    thread = threading.Thread(target=compute)
    with full_precision(torch.device("cuda")):
        thread.start()
        assert entered.wait(10.0)
        assert tf32_settings() == FULL_PRECISION
    assert tf32_settings() == FULL_PRECISION
    leave.set()
    thread.join()
    assert tf32_settings() == before


def test_settings_of_the_new_switches_are_restored(settings_kept: None) -> None:
    convolutions, recurrent = torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    convolutions.fp32_precision, recurrent.fp32_precision = "ieee", "tf32"
    with full_precision(torch.device("cuda")):
        assert (convolutions.fp32_precision, recurrent.fp32_precision) == ("ieee", "ieee")
    assert (convolutions.fp32_precision, recurrent.fp32_precision) == ("ieee", "tf32")


class Recorder(WrappedPolicy):
    """A policy that notes the settings under which it acts."""

    def __init__(self, source: Policy) -> None:
        super().__init__(source)
        self.seen: list[list[Any]] = []

    def act(self, observations: Any, memory: Any, masks: Any) -> Any:
        self.seen.append(tf32_settings())
        return self.source.act(observations, memory, masks)


def test_a_policy_acts_in_full_precision_and_leaves_the_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU: nothing is changed for a CPU.
    monkeypatch.setattr(contract, "full_precision", lambda device: full_precision(torch.device("cuda")))
    before = tf32_settings()
    policy = Recorder(load(CONVOLUTIONS))
    policy(example_observations(policy, 2, seed=1))
    assert policy.seen == [FULL_PRECISION]
    assert tf32_settings() == before


@pytest.mark.parametrize("engine", ["torchscript", "onnxruntime"])
def test_an_engine_records_the_network_in_full_precision(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, forward, seen = load(CONVOLUTIONS), traced.PolicyNetwork.forward, []

    def noted(*arguments: Any) -> Any:
        seen.append(tf32_settings())
        return forward(*arguments)

    monkeypatch.setattr(traced.PolicyNetwork, "forward", noted)
    choose_engine(policy, 2, EngineSettings(engine))
    assert seen and all(settings == FULL_PRECISION for settings in seen)


def test_an_exported_torchscript_file_keeps_full_precision(tmp_path: Path) -> None:
    """TorchScript writes PyTorch's switch into the file, where it counts on every machine."""
    _, venv = cases.make_environments(CONVOLUTIONS, "Box")
    cases.make_model(CONVOLUTIONS, venv).save(tmp_path / "model.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_policy(tmp_path / "model.zip", "torchscript", tmp_path / "model.pt")
        graph = torch.jit.load(tmp_path / "model.pt").inlined_graph
    convolutions = graph.findAllNodes("aten::_convolution")
    assert convolutions and not any(list(node.inputs())[-1].toIValue() for node in convolutions)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("engine", ["direct", "torchscript", "cuda_graph"])
def test_convolutions_on_a_gpu_are_exact_whatever_the_program_has_set(engine: str, settings_kept: None) -> None:
    torch.backends.cudnn.allow_tf32 = True
    on_cpu, on_gpu = (load(CONVOLUTIONS, device) for device in ("cpu", "cuda"))
    run_by, _ = choose_engine(on_gpu, 4, EngineSettings(engine))
    observations = example_observations(on_cpu, 4, seed=1)
    expected, _ = on_cpu(observations)
    actions, _ = run_by({key: tensor.cuda() for key, tensor in observations.items()})
    assert_same_actions(on_cpu, actions.cpu(), expected)
    assert torch.backends.cudnn.allow_tf32


def test_warnings_can_be_taken_as_texts() -> None:
    taken: list[str] = []
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with warnings_to(taken.append):
            warn("of this package")
            warn("of this package")
            warnings.warn("of another package", stacklevel=1)
            with warnings_to(lambda text: taken.append(f"inside: {text}")):
                warn("of this package")
    assert taken == ["of this package", "of this package", "of another package", "inside: of this package"]
    assert warnings.showwarning is before
    with pytest.warns(UserWarning, match="for callers of the library") as caught:
        warn("for callers of the library")
    assert Path(caught[0].filename) == Path(__file__)
