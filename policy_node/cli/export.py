# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Export trained policies and verify the files (`policy_export`).

An exported file contains the normalisation, a description of its inputs and outputs, and golden vectors. It is loaded
again and compared with its source before success is reported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from policy_node.config.specs import PolicySpec
from policy_node.policies import Policy, PolicyError, load_policy, select_device
from policy_node.policies.formats import FORMATS, ExportSource, PolicyFile, PolicyFormat
from policy_node.policies.golden import TOLERANCE as GOLDEN_TOLERANCE
from policy_node.policies.golden import GoldenVectors, golden_error, record_golden, record_run
from policy_node.policies.precision import full_precision
from policy_node.policies.sb3 import SavedModel, build_sb3, read_sb3, warn_of_normalisation
from policy_node.policies.vecnormalize import read_vecnormalize

# Suffixes of the formats that can be written.
SUFFIXES = {one.name: one.suffixes for one in FORMATS if one.write is not None}
# Largest difference between engines on one machine, in shares of the action range.
TOLERANCE = 1e-5
BATCHES = (1, 2, 7)
ROUNDS = 3


def export_policy(
    model: Path,
    format: str,
    output: Path,
    vecnormalize: Path | None = None,
    report: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Write a policy in another format, load the file and compare it with its source.

    Parameters
    ----------
    model
        File (``.zip``) of ``model.save``. It is trusted: its pickles are run.
    format
        A key of `SUFFIXES`.
    output
        File to write; an existing one is replaced when the new one has been verified.
    vecnormalize
        File of ``VecNormalize.save``, if there is one.
    report
        Called with the name of each step.

    Returns
    -------
    dict
        File, source and the errors of `verify_policy`.

    Raises
    ------
    PolicyError
        When the policy cannot be exported, or the file acts differently from its source; no file is left then.
    """
    if output.suffix not in SUFFIXES[format]:
        suffixes = " or ".join(SUFFIXES[format])
        raise PolicyError(
            f"output '{output}' does not end in {suffixes}, the suffix of format {format}; change the name"
        )
    report(f"reading {model}")
    saved, file = _read_source(model, vecnormalize)
    policy = build_sb3(saved, file)
    warn_of_normalisation(saved, file)
    report("recording golden vectors")
    golden = record_golden(policy)
    report(f"writing {output} as {format}")
    # In the same folder, so that it can replace the output atomically; with the suffix of the format.
    unverified = output.with_name(f".unverified_{os.getpid()}_{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _write(FORMATS[format], ExportSource(saved, file.statistics, policy, golden, str(model)), unverified)
        report(f"verifying {output}")
        with warnings.catch_warnings():
            # Its source has said the same.
            warnings.simplefilter("ignore")
            written = load_policy(unverified, trusted=True)
        errors = verify_policy(written, golden, policy)
        _demand(errors, str(output))
        os.replace(unverified, output)
    except OSError as error:
        raise PolicyError(f"output '{output}' cannot be written: {error.strerror}; give another path") from error
    finally:
        unverified.unlink(missing_ok=True)
    return {
        "file": str(output),
        "format": format,
        "bytes": output.stat().st_size,
        "sha256": written.spec.sha256,
        "algorithm": policy.spec.algorithm,
        "normalisation": policy.normalisation,
        "source": str(model),
        "source_sha256": policy.spec.sha256,
        **errors,
    }


def verify_policy(policy: Policy, golden: GoldenVectors | None, source: Policy | None) -> dict[str, float]:
    """Compare a policy with its golden vectors and with its source, where these are given.

    The source is compared on random observations in batches of different sizes, with memory, resets and masks.

    Returns
    -------
    dict
        ``golden_error`` and ``source_error`` as shares of the action range; infinite where a choice differs.

    Raises
    ------
    PolicyError
        When the specs differ.
    """
    errors = {}
    if golden is not None:
        errors["golden_error"] = golden_error(policy, golden)
    if source is not None:
        difference = _spec_difference(policy.spec, source.spec)
        if difference:
            raise PolicyError(f"the policy differs from its source: {difference}; export the source again")
        errors["source_error"] = max(_batch_error(policy, source, robots) for robots in BATCHES)
    return errors


def _batch_error(policy: Policy, source: Policy, robots: int) -> float:
    """Return the error of a policy over some steps of its source."""
    rng, spec = np.random.default_rng(robots), source.spec
    observations = {
        key: np.stack([array.example(robots, rng) for _ in range(ROUNDS)]) for key, array in spec.observations.items()
    }
    masks = rng.random((ROUNDS, robots, spec.mask)) < 0.7 if spec.mask else None
    if masks is not None:
        masks[0] = True
    return golden_error(policy, record_run(source, observations, rng.random((ROUNDS, robots)) < 0.3, masks))


def _spec_difference(found: PolicySpec, expected: PolicySpec) -> str:
    """Return the first difference between two specs, apart from the hash of the file; empty where they are equal."""
    for name in ("observations", "memory"):
        ours, theirs = ([str(array) for array in getattr(spec, name).values()] for spec in (found, expected))
        if ours != theirs:
            return f"its {name} {ours} are not {theirs}"
    for name in ("action", "mask", "algorithm"):
        here, there = (str(getattr(spec, name)) for spec in (found, expected))
        if here != there:
            return f"its {name} {here} is not {there}"
    return ""


def _demand(errors: Mapping[str, float], path: str, tolerance: float = TOLERANCE) -> None:
    for name, error in errors.items():
        if not error <= tolerance:
            against = "its golden vectors" if name == "golden_error" else "its source"
            found = (
                "takes another choice than" if error == np.inf else f"differs by {error:.1e} of the action range from"
            )
            raise PolicyError(f"'{path}' {found} {against}; allowed is {tolerance:g}")


def _read_source(model: Path, vecnormalize: Path | None) -> tuple[SavedModel, PolicyFile]:
    if model.suffix != ".zip":
        raise PolicyError(
            f"'{model}' is no .zip file that model.save() of Stable-Baselines3 wrote; only these are exported"
        )
    try:
        content = model.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"policy file '{model}' cannot be read: {error.strerror}; give the path of a .zip file"
        ) from error
    statistics = {} if vecnormalize is None else read_vecnormalize(vecnormalize)
    used = "" if vecnormalize is None else str(vecnormalize)
    sha256 = hashlib.sha256(content).hexdigest()
    file = PolicyFile(content, str(model), sha256, torch.device("cpu"), statistics=statistics, vecnormalize=used)
    return read_sb3(content, str(model)), file


def _write(kind: PolicyFormat, source: ExportSource, output: Path) -> None:
    """Write a policy in another format, without the noise of PyTorch's exporters."""
    assert kind.write is not None
    disabled = logging.root.manager.disable
    validates = torch.distributions.Distribution._validate_args
    # Checks of values are branches, which a traced network cannot have.
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings(), torch.no_grad(), full_precision():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            kind.write(source, output)
    except ModuleNotFoundError as error:
        raise PolicyError(
            f"format {kind.name} needs {error.name}, which is not installed; pip install {' '.join(kind.requires)}"
        ) from error
    except (OSError, PolicyError):
        raise
    except Exception as error:
        alternative = "torchscript" if kind.name != "torchscript" else "bundle"
        raise PolicyError(
            f"the computation of '{source.path}' cannot be written as {kind.name} ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}); rewrite its custom "
            f"classes with tensor operations only, or try --format {alternative}"
        ) from error
    finally:
        logging.disable(disabled)
        torch.distributions.Distribution.set_default_validate_args(validates)


def verify_file(
    path: Path,
    against: Path | None = None,
    vecnormalize: Path | None = None,
    device: str = "cpu",
    trusted: bool = True,
) -> dict[str, Any]:
    """Load a policy file of any format and compare it with its golden vectors and its source.

    Parameters
    ----------
    path, device, trusted
        See `load_policy`.
    against, vecnormalize
        Source (``.zip``) to compare with, and its statistics; None: not compared.

    Raises
    ------
    PolicyError
        When the file cannot be loaded, differs, or has neither golden vectors nor a source.
    """
    policy = load_policy(path, device=device, trusted=trusted)
    golden = policy.golden
    if golden is None and against is None:
        raise PolicyError(f"policy file '{path}' has no golden vectors; give its source with --against")
    source = None if against is None else build_sb3(*_read_source(against, vecnormalize))
    errors = verify_policy(policy, golden, source)
    # A GPU sums in a different order.
    _demand(errors, str(path), TOLERANCE if select_device(device).type == "cpu" else GOLDEN_TOLERANCE)
    return {
        "file": str(path),
        "device": device,
        "algorithm": policy.spec.algorithm,
        "normalisation": policy.normalisation,
        "sha256": policy.spec.sha256,
        **errors,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run `policy_export`."""
    words = list(sys.argv[1:] if argv is None else argv)
    verifies = words[:1] == ["verify"]
    arguments = make_verify_parser().parse_args(words[1:]) if verifies else make_parser().parse_args(words)
    console = Console(stderr=True)
    try:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
        ) as progress:
            if verifies:
                progress.add_task(f"verifying {arguments.path}", total=None)
                result = verify_file(
                    arguments.path, arguments.against, arguments.vecnormalize, arguments.device, not arguments.untrusted
                )
            else:
                task = progress.add_task("starting", total=None)
                result = export_policy(
                    arguments.model,
                    arguments.format,
                    arguments.output,
                    arguments.vecnormalize,
                    lambda step: progress.update(task, description=step),
                )
    except PolicyError as error:
        print(f"policy_export: {error}", file=sys.stderr)
        if verifies and arguments.json:
            _write_json(arguments.json, {"file": str(arguments.path), "verified": False, "reason": str(error)})
        return 1
    shown = [
        f"{result[name]:.1e} of the action range from its {against}"
        for name, against in (("golden_error", "golden vectors"), ("source_error", "source"))
        if name in result
    ]
    print(
        f"{result['file']}: {result['algorithm']}, normalisation: {result['normalisation']}, verified, at most "
        f"{' and '.join(shown)}; SHA-256 {result['sha256']}"
    )
    if arguments.json:
        _write_json(arguments.json, {"verified": True, **result})
    return 0


def _write_json(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_export`."""
    parser = argparse.ArgumentParser(
        prog="policy_export",
        description="Write a policy of Stable-Baselines3 in another format, including its normalisation, and verify "
        "the file. MODEL is trusted: it can run code. See also `policy_export verify --help`.",
        epilog="A bundle is data only and supports stochastic actions, but takes the classes of Stable-Baselines3 and "
        "sb3-contrib only. The other formats take any class that PyTorch can trace.",
    )
    parser.add_argument("model", type=Path, help=".zip file of model.save()")
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="bundle", help="default bundle")
    parser.add_argument("--vecnormalize", type=Path, help="file of VecNormalize.save()")
    parser.add_argument("--output", type=Path, required=True, help="file to write, with the suffix of the format")
    parser.add_argument("--json", type=Path, help="JSON file for the result")
    return parser


def make_verify_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_export verify`."""
    parser = argparse.ArgumentParser(
        prog="policy_export verify",
        description="Compare the actions of a file with its golden vectors and, with --against, with its source.",
    )
    parser.add_argument("path", type=Path, help="policy file")
    parser.add_argument("--against", type=Path, help=".zip file of its source; it is trusted")
    parser.add_argument("--vecnormalize", type=Path, help="statistics of that .zip file")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:<index> or auto (default cpu)")
    parser.add_argument("--untrusted", action="store_true", help="refuse a PATH that can run code")
    parser.add_argument("--json", type=Path, help="JSON file for the result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
