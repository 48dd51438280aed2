# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What makes an engine of a policy's network: TorchScript, onnxruntime, AOTInductor, or PyTorch in lower precision."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from policy_node.engines.network import PolicyNetwork, Run, example_inputs, output_dtypes
from policy_node.policies.contract import TorchPolicy
from policy_node.policies.precision import full_precision

ONNX_OPSET = 18


class EngineError(RuntimeError):
    """An engine cannot be used; the text says why, and what to do where something can be done."""


def build_network_engine(
    engine: str,
    policy: TorchPolicy,
    observations: Mapping[str, torch.Tensor],
    channels_last: Collection[str],
    precision: str = "float32",
    package: Path | None = None,
) -> Run:
    """Build an engine for a fixed number of robots.

    Parameters
    ----------
    engine
        ``direct``, ``torchscript``, ``onnxruntime`` or ``aotinductor``.
    policy
        The policy, whose actions are deterministic.
    observations
        Example observations of all robots.
    channels_last
        See `PolicyNetwork`.
    precision
        In which the network computes.
    package
        Where the compiled package of ``aotinductor`` lies, or is written to.

    Raises
    ------
    Exception
        Whatever keeps the policy from being run by that engine.
    """
    network = PolicyNetwork(policy, False, channels_last, marks_nan=engine in ("onnxruntime", "aotinductor")).eval()
    example = example_inputs(policy, observations, channels_last)
    # TorchScript and AOTInductor keep the precision of convolutions that is set when a network is recorded.
    with full_precision():
        return _build(engine, network, policy, example, precision, package)


def _build(
    engine: str,
    network: PolicyNetwork,
    policy: TorchPolicy,
    example: tuple[torch.Tensor, ...],
    precision: str,
    package: Path | None,
) -> Run:
    if engine == "onnxruntime":
        return _onnxruntime(network, example, policy)
    if engine == "aotinductor":
        assert package is not None
        return _aotinductor(network, example, package)
    compute: Callable[..., Any] = network
    if precision != "float32":
        compute = _in_precision(network, policy, getattr(torch, precision))
    if engine == "direct":
        return lambda inputs: compute(*inputs)
    return _torchscript(network, compute, example, precision)


class _LowPrecision(torch.nn.Module):
    """A network that computes in lower precision and gives what the policy gives."""

    def __init__(self, network: PolicyNetwork, policy: TorchPolicy, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self._context: dict[str, Any] = {"device_type": policy.device.type, "dtype": dtype}
        self._dtypes = output_dtypes(policy)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Its cache of weights belongs to training, and must not be recorded.
        with torch.autocast(**self._context, cache_enabled=False):
            outputs = self.network(*tensors)
        return tuple(output.to(dtype) for output, dtype in zip(outputs, self._dtypes, strict=True))


def _in_precision(network: PolicyNetwork, policy: TorchPolicy, dtype: torch.dtype) -> torch.nn.Module:
    return _LowPrecision(network, policy, dtype).eval()


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Refuse computations whose course depends on values: what is recorded takes one of its courses only."""
    validates = torch.distributions.Distribution._validate_args
    # Checks of values are branches.
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", torch.jit.TracerWarning)
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(validates)
    # PyTorch's own layers branch on shapes, which are those of all calls.
    own = str(Path(torch.__file__).parent)
    for warning in caught:
        if not warning.filename.startswith(own):
            reason = str(warning.message).strip().partition(". ")[0]
            raise EngineError(f"its computation depends on values: {warning.filename}:{warning.lineno}: {reason}")


def _torchscript(network: PolicyNetwork, compute: Any, example: tuple[torch.Tensor, ...], precision: str) -> Run:
    with _recording():
        frozen = torch.jit.freeze(torch.jit.trace(compute, example, check_trace=False).eval())
        # Its rewriting for oneDNN knows float32 only.
        module = torch.jit.optimize_for_inference(frozen) if precision == "float32" else frozen
    return lambda inputs: module(*inputs)


def _onnxruntime(network: PolicyNetwork, example: tuple[torch.Tensor, ...], policy: TorchPolicy) -> Run:
    try:
        from policy_node.policies.onnx import runs_on_gpu, session_engine
    except ModuleNotFoundError as error:
        raise EngineError(f"{error.name} is not installed; pip install onnx onnxruntime onnxscript") from error
    if policy.device.type == "cuda" and not runs_on_gpu():
        raise EngineError("the installed onnxruntime cannot use a GPU; install onnxruntime-gpu in its place")
    content = io.BytesIO()
    with _recording():
        # The older of PyTorch's exporters: on these networks it takes 0.05 s, the other one 2 s.
        torch.onnx.export(network, example, content, dynamo=False, opset_version=ONNX_OPSET)  # type: ignore[arg-type]
    return session_engine(content.getvalue(), policy.device)


def _aotinductor(network: PolicyNetwork, example: tuple[torch.Tensor, ...], package: Path) -> Run:
    import torch._inductor

    if not package.is_file():
        with _recording():
            program = torch.export.export(network, example)
            unfinished = package.with_name(f".unfinished_{package.name}")
            torch._inductor.aoti_compile_and_package(program, package_path=str(unfinished))
            unfinished.replace(package)
    module = torch._inductor.aoti_load_package(str(package))

    def run(inputs: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        return module(*inputs)

    return run
