# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Recognise files that users take for policies, but that hold none: say what they are and what to do."""

from __future__ import annotations

from collections.abc import Callable

from policy_node.policies.archive import member_names

_EXPORT = "export the policy with its trainer, for example as ONNX (torch.onnx.export) or TorchScript (torch.jit.save)"
# First bytes of the files that torch.save wrote before PyTorch 1.6: a pickle of its magic number.
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def is_checkpoint(content: bytes) -> bool:
    """Return whether torch.save wrote the content; TorchScript has a folder `code` beside `data.pkl`."""
    inside = {name.partition("/")[2] for name in member_names(content)}
    is_archive = "data.pkl" in inside and not any(name.startswith("code/") for name in inside)
    return is_archive or content.startswith(_TORCH_LEGACY)


def _is_pickle(content: bytes) -> bool:
    return content[:1] == b"\x80" and content[1:2] in (b"\2", b"\3", b"\4", b"\5") and content.endswith(b".")


def _is_cut_off(content: bytes) -> bool:
    return content.startswith(b"PK") and not member_names(content)


def is_text(content: bytes) -> bool:
    """Return whether the beginning is printed text; a cut may split its last letter."""
    try:
        text = content[:1024].decode("utf-8", "strict" if len(content) <= 1024 else "ignore")
    except UnicodeDecodeError:
        return False
    return len(text) > 1 and all(letter.isprintable() or letter in "\t\r\n" for letter in text)


def _is_keras(content: bytes) -> bool:
    return content.startswith(b"\x89HDF\r\n") or {"config.json", "model.weights.h5"} <= member_names(content)


def _is_packed(content: bytes) -> bool:
    """Return whether a content is an archive that somebody packed a policy file into."""
    suffixes = (".onnx", ".pt", ".zip", ".bundle")
    files = [name for name in member_names(content) if name.endswith(suffixes)]
    return bool(files) or content.startswith(b"\x1f\x8b") or content[257:262] == b"ustar"


def _is_safetensors(content: bytes) -> bool:
    return content[8:9] == b"{" and 8 + int.from_bytes(content[:8], "little") <= len(content)


# What a content is, and what to do; the first that fits counts.
_KINDS: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (
        lambda content: content.startswith(b"version https://git-lfs.github.com/"),
        "is a Git LFS pointer in place of the file; run `git lfs pull` in its repository",
    ),
    (
        is_checkpoint,
        f"is a training checkpoint of torch.save: weights or Python objects without a network to run; {_EXPORT}",
    ),
    (_is_safetensors, f"is a safetensors file: weights without a network to run; {_EXPORT}"),
    (
        lambda content: _is_pickle(content) and b"stable_baselines3.common.vec_env.vec_normalize" in content,
        "is the file of VecNormalize.save(), which holds no policy; give it as policy.vecnormalize (--vecnormalize), "
        "and the .zip file of model.save() as the policy",
    ),
    (_is_pickle, f"is a Python pickle, which is no policy format; {_EXPORT}"),
    (
        lambda content: content[:1024].lstrip().lower().startswith((b"<!doctype html", b"<html")),
        "is a web page in place of the file; download the file itself (on GitHub the link 'raw')",
    ),
    (
        lambda content: any("/aotinductor/" in name for name in member_names(content)),
        "is a package that AOTInductor compiled; give the file that torch.export.save wrote",
    ),
    (
        lambda content: content[:4] in (b"ftrt", b"ptrt"),
        "is an engine that TensorRT compiled for one GPU; give the ONNX file that it was compiled from",
    ),
    (lambda content: content[4:8] == b"TFL3", "is a TensorFlow Lite file; convert it to ONNX (tf2onnx --tflite)"),
    (_is_packed, "is an archive that holds other files; unpack it and give the policy file inside"),
    (_is_keras, "is a file of Keras or HDF5; convert it to ONNX (tf2onnx)"),
    (_is_cut_off, "is cut off or damaged after {bytes} bytes; copy or save it again"),
)


def why_unusable(content: bytes) -> str:
    """Return what a content without a policy is and what to do, for errors; empty where its kind is not known."""
    text = next((text for is_kind, text in _KINDS if is_kind(content)), "")
    return text.replace("{bytes}", str(len(content)))
