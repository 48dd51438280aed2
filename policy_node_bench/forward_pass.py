# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What a step is compared with: the forward pass alone, and `model.predict` for each robot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from policy_node.engines.backends import EngineRequest, EngineSettings
from policy_node.engines.lean import export_lean
from policy_node.engines.tracing import network_of
from policy_node.policies.contract import TorchPolicy
from policy_node.ros.deployment import Deployment


def forward_pass(deployment: Deployment, robots: int) -> Callable[[], None]:
    """Return a function that runs the policy of a deployment on observations that are already on its device.

    With onnxruntime on a CPU it is the bare session of the network, bound once to its arrays: what remains when
    everything else of a step is taken away. Any other engine is called as the step calls it.
    """
    policy = deployment.pipeline.policy
    rng = np.random.default_rng(0)
    examples = {key: spec.example(robots, rng) for key, spec in policy.spec.observations.items()}
    observations = {key: _on_device(array, policy.device) for key, array in examples.items()}
    is_bare = deployment.engine.name == "onnxruntime" and policy.device.type == "cpu"
    if is_bare and isinstance(deployment.policy, TorchPolicy):
        images = frozenset(key for key, array in examples.items() if _is_image(array))
        return BareSession(EngineRequest(deployment.policy, robots, observations, images, EngineSettings()))
    state = policy.initial_state(robots)

    def run() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = policy(observations, state)
        if policy.device.type == "cuda":
            torch.cuda.synchronize(policy.device)

    return run


class BareSession:
    """Run the network of a policy in onnxruntime, on examples, with inputs and outputs bound once.

    Attributes
    ----------
    actions
        Actions `[robots, *shape]` of the last run.
    """

    def __init__(self, request: EngineRequest) -> None:
        from policy_node.policies.onnxruntime_network import make_session

        network, inputs = network_of(request)
        self._session = make_session(export_lean(network, inputs), torch.device("cpu"), [])
        ports = self._session.get_inputs()
        # The binding knows addresses only: the arrays must live as long as this object.
        self._inputs = {port.name: tensor.numpy() for port, tensor in zip(ports, inputs, strict=True)}
        self._outputs = self._session.run(None, self._inputs)
        self._binding = self._session.io_binding()
        for name, array in self._inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for port, array in zip(self._session.get_outputs(), self._outputs, strict=True):
            self._binding.bind_output(port.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self.actions: np.ndarray = self._outputs[0]

    def __call__(self) -> None:
        """Run the network."""
        self._session.run_with_iobinding(self._binding)


def _is_image(array: np.ndarray) -> bool:
    """Say whether `[robots, channels, height, width]` comes from a camera, which stores the channels last."""
    return array.ndim == 4 and array.shape[1] < array.shape[3]


def _on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy observations to the device; images are stored as from a camera, channels last."""
    if _is_image(array):
        channels_last = np.ascontiguousarray(np.moveaxis(array, 1, -1))
        return torch.from_numpy(channels_last).to(device).movedim(-1, 1)
    return torch.from_numpy(array).to(device)


def predict_each(model: str, robots: int, device: str) -> Callable[[], None]:
    """Return a function that runs `model.predict` of a PPO model for one robot after another, as the baseline does."""
    from stable_baselines3 import PPO

    loaded = PPO.load(model, device=device)
    observations = [loaded.observation_space.sample() for _ in range(robots)]

    def run() -> None:
        # The actions are returned on the host, so no synchronisation is needed.
        for observation in observations:
            loaded.predict(observation, deterministic=True)

    return run
