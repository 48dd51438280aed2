# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Describe the content of policy files without running any of their code, for `policy_export info`.

Each function takes a file of one format and returns what its content tells, as JSON: arrays as in
`policy_node.policies.description`, further texts in `notes`. It raises an exception where the file is damaged.
"""

from __future__ import annotations

import base64
import importlib
import json
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from policy_node.config.specs import PolicySpec
from policy_node.policies.archive import member_names, read_members
from policy_node.policies.contract import Policy
from policy_node.policies.description import spec_to_json
from policy_node.policies.formats import PolicyFile
from policy_node.policies.interface import PolicyInterface

# Number of a dtype in files of torch.export.
_EXPORTED_DTYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64"},
    **{6: "float16", 7: "float32", 8: "float64", 12: "bool"},
}
# Attributes of TorchScript that every module has.
_MODULE_ATTRIBUTES = ("training", "_is_full_backward_hook")


def inspect_sb3(file: PolicyFile) -> dict[str, Any]:
    """Describe a file of ``model.save``: spaces and algorithm, if the policy class is a known one."""
    from policy_node.policies.sb3 import actions, algorithm_of, used_vecnormalize
    from policy_node.policies.sb3.observations import keyed_spaces, observation_spec
    from policy_node.policies.spaces import space_from_pickle

    members = read_members(file.content, ("data", "_stable_baselines3_version"), file.path)
    saved = json.loads(members["data"])
    observation_space, action_space = (
        space_from_pickle(base64.b64decode(saved[name][":serialized:"]))
        for name in ("observation_space", "action_space")
    )
    module, name = _class_name(base64.b64decode(saved["policy_class"][":serialized:"]))
    package = module.partition(".")[0]
    keyed = keyed_spaces(observation_space)
    spec = PolicySpec(
        {key: observation_spec(key, space, None, file.path) for key, space in keyed.items()},
        actions.action_spec(action_space, file.path),
        "",
        file.sha256,
    )
    found: dict[str, Any] = spec_to_json(spec)
    # Which memory and masks there are is known when the policy is built.
    del found["algorithm"], found["memory"], found["mask"]
    trained = ", but training used VecNormalize:" if used_vecnormalize(saved) else "; if training used VecNormalize,"
    found["normalisation"] = f"none in the file{trained} give its file (--vecnormalize, policy.vecnormalize)"
    found["runs"] = "one batch"
    policy_class = "a class that is pickled with its code" if package == "cloudpickle" else f"{module}.{name}"
    found |= {"policy_class": policy_class, "saved_with": _text(members.get("_stable_baselines3_version", b""))}
    if package in ("stable_baselines3", "sb3_contrib"):
        try:
            found["algorithm"] = algorithm_of(saved, getattr(importlib.import_module(module), name))
        except ImportError:
            found["notes"] = [f"{module} is not installed"]
    else:
        found["notes"] = [f"its policy class is code of its author: {policy_class}"]
    if package == "sb3_contrib":
        found["packages"] = ["sb3-contrib"]
    return found


def inspect_bundle(file: PolicyFile) -> dict[str, Any]:
    """Describe a bundle by its member ``policy.json``."""
    data = json.loads(read_members(file.content, ("policy.json",), file.path)["policy.json"])
    if "layers" in data:
        return {**data["spec"], "normalisation": "inside" if "normalise" in data["layers"] else "none"}
    return {
        **data["spec"],
        "policy_class": data["policy_class"],
        "normalisation": "inside" if data["normalisation"] else "none",
        "packages": ["sb3-contrib"] if data["policy_class"].startswith("sb3_contrib.") else [],
    }


def inspect_checkpoint(read: Callable[[PolicyFile], Any], file: PolicyFile) -> dict[str, Any]:
    """Describe a training checkpoint, also where its activations are not given; `read` makes a `SavedActor`."""
    saved = read(replace(file, interface=PolicyInterface(activation="identity", output_activation="identity")))
    policy = saved.build(file)
    return {**spec_to_json(policy.spec), "normalisation": policy.normalisation}


def inspect_onnx(file: PolicyFile) -> dict[str, Any]:
    """Describe an ONNX file: its inputs, outputs and metadata."""
    import onnx

    model = onnx.load_model_from_string(file.content)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    constants = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, Any] = {
        "inputs": [_onnx_array(value) for value in model.graph.input if value.name not in constants],
        "outputs": [_onnx_array(value) for value in model.graph.output],
        "metadata": sorted(texts),
        "written_by": f"{model.producer_name} {model.producer_version}".strip(),
        "normalisation": Policy.normalisation,
    }
    return found | _description(texts)


def _onnx_array(value: Any) -> dict[str, Any]:
    import onnx

    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else "?"
    lengths = [part.dim_value if part.HasField("dim_value") else part.dim_param or "?" for part in kind.shape.dim]
    return {"name": value.name, "shape": lengths, "dtype": str(dtype)}


def inspect_torchscript(file: PolicyFile) -> dict[str, Any]:
    """Describe a TorchScript file: inputs and attributes of its module, as the code declares them."""
    names = member_names(file.content)
    folder = next(name for name in sorted(names) if name.endswith("/data.pkl")).removesuffix("data.pkl")
    module, name = _class_name(read_members(file.content, (f"{folder}data.pkl",), file.path)[f"{folder}data.pkl"])
    path = f"{folder}code/{module.replace('.', '/')}.py"
    code = _text(read_members(file.content, (path,), file.path)[path])
    body = re.split(r"^(?=class )", code.partition(f"class {name}(Module)")[2], maxsplit=1, flags=re.MULTILINE)[0]
    attributes = re.findall(r"^  (\w+) : (.+)$", body, re.MULTILINE)
    methods = dict(re.findall(r"^  def (\w+)\(self[^,)]*,?\s*([^)]*)\)", body, re.MULTILINE))
    own = [f"{key}: {kind}" for key, kind in attributes if key not in _MODULE_ATTRIBUTES and "__torch__" not in kind]
    found: dict[str, Any] = {
        "module": f"{module.removeprefix('__torch__.').removeprefix('__torch__')}.{name}".lstrip("."),
        "inputs": [
            {"name": part, "type": kind}
            for part, kind in re.findall(r"(\w+): ([\w\[\], ]+?)(?:,\n|=|$)", methods["forward"])
        ],
        "attributes": own,
        "methods": sorted(methods.keys() - {"forward"}),
        "normalisation": Policy.normalisation,
    }
    return found | _described_archive(file)


def inspect_exported(file: PolicyFile) -> dict[str, Any]:
    """Describe a file of ``torch.export.save``: inputs with their shapes."""
    names = sorted(member_names(file.content))
    path = next(name for name in names if "/models/" in name or name.endswith("serialized_exported_program.json"))
    program = json.loads(read_members(file.content, (path,), file.path)[path])
    graph, values = program["graph_module"]["signature"], program["graph_module"]["graph"]["tensor_values"]
    parts = [spec["user_input"]["arg"]["as_tensor"]["name"] for spec in graph["input_specs"] if "user_input" in spec]
    found: dict[str, Any] = {
        "inputs": [
            {
                "name": part,
                "shape": [_length(size) for size in values[part]["sizes"]],
                "dtype": _EXPORTED_DTYPES.get(values[part]["dtype"], "?"),
            }
            for part in parts
        ],
        "written_by": f"PyTorch {program.get('torch_version', '?')}",
        "normalisation": Policy.normalisation,
    }
    return found | _described_archive(file)


def _length(size: Mapping[str, Any]) -> int | str:
    return size["as_int"] if "as_int" in size else str(size["as_expr"]["expr_str"])


def _described_archive(file: PolicyFile) -> dict[str, Any]:
    """Return what the description says that `policy_export` put into an archive; empty without one."""
    path = next((name for name in member_names(file.content) if name.endswith("/extra/policy_node")), None)
    if path is None:
        return {}
    return _description({"policy_node": _text(read_members(file.content, (path,), file.path)[path])})


def _description(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return what a description of `policy_export` says; empty without one."""
    if "policy_node" not in texts:
        return {}
    data = json.loads(texts["policy_node"])
    return {**data["spec"], "normalisation": data.get("normalisation", Policy.normalisation)}


def _class_name(content: bytes) -> tuple[str, str]:
    """Return module and name of the first class that a pickle names; nothing is made of it."""
    strings: list[str] = []
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            return module, name
        if operation.name == "STACK_GLOBAL":
            return strings[-2], strings[-1]
        if isinstance(argument, str):
            strings.append(argument)
    raise ValueError("its pickle names no class")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip()
