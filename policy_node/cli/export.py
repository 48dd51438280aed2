# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Export trained policies and verify the files (`policy_export`).

An exported file contains the normalisation, a description of its inputs and outputs, and golden vectors. It is loaded
again and compared with its source before success is reported.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from policy_node.cli.output import warnings_as_lines
from policy_node.config.parameters import ACTIVATIONS, OUTPUT_ACTIVATIONS
from policy_node.config.specs import PolicySpec
from policy_node.config.warning import warnings_to
from policy_node.policies import Policy, PolicyError, load_policy, select_device
from policy_node.policies.contract import TorchPolicy
from policy_node.policies.formats import FORMATS, ExportSource, PolicyFile, PolicyFormat, SavedPolicy, format_of
from policy_node.policies.golden import TOLERANCE as GOLDEN_TOLERANCE
from policy_node.policies.golden import GoldenVectors, golden_error, record_golden, record_run
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.loading import NO_STATISTICS, read_policy_file
from policy_node.policies.precision import full_precision
from policy_node.policies.sb3 import warn_of_normalisation
from policy_node.policies.vecnormalize import read_vecnormalize

# Suffixes of the formats that can be written.
SUFFIXES = {one.name: one.suffixes for one in FORMATS if one.write is not None}
# Largest difference between engines on one machine, in shares of the action range.
TOLERANCE = 1e-5
BATCHES = (1, 2, 7)
ROUNDS = 3


def export_policy(
    model: Path,
    format: str | None,
    output: Path,
    vecnormalize: Path | None = None,
    report: Callable[[str], None] = lambda step: None,
    interface: PolicyInterface | None = None,
) -> dict[str, Any]:
    """Write a policy in another format, load the file and compare it with its source.

    Parameters
    ----------
    model
        File of ``model.save``, which is trusted: its pickles are run, and modules in its folder are found. Or a
        training checkpoint, whose actor is data.
    format
        A key of `SUFFIXES`; None: that of the output's suffix.
    output
        File to write; an existing one is replaced when the new one has been verified.
    vecnormalize
        File of ``VecNormalize.save``, if there is one.
    report
        Called with the name of each step.
    interface
        What a training checkpoint does not say: its activations and the bounds of its action.

    Returns
    -------
    dict
        File, source and the errors of `verify_policy`.

    Raises
    ------
    PolicyError
        When the policy cannot be exported, or the file acts differently from its source; no file is left then.
    """
    format = _format_of_output(output, format)
    report(f"reading {model}")
    saved, file = _read_source(model, vecnormalize, interface)
    policy = saved.build(file)
    if not isinstance(policy, TorchPolicy):
        raise PolicyError(
            f"'{model}' takes a text, whose tokeniser cannot be exported; let policy.path name it, where its library is"
        )
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
        # Its source has given the same warnings.
        with warnings_to(lambda text: None):
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


def _format_of_output(output: Path, format: str | None) -> str:
    """Return the format to write; raises PolicyError where the suffix tells none, or another than the named one."""
    suffixes = [suffix for name in SUFFIXES if format in (None, name) for suffix in SUFFIXES[name]]
    if output.suffix not in suffixes:
        of_format = f"the suffix of format {format}" if format else "which tell the format"
        raise PolicyError(f"output '{output}' does not end in {' or '.join(suffixes)}, {of_format}; change the name")
    return next(name for name in SUFFIXES if format in (None, name) and output.suffix in SUFFIXES[name])


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
    for name in ("action", "mask", "horizon", "algorithm"):
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


@contextmanager
def modules_beside(*paths: Path | None) -> Iterator[None]:
    """Let Python find modules in the folders of files, after all others: classes that a trusted file names."""
    folders = [str(path.resolve().parent) for path in paths if path is not None]
    sys.path += folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)


def _read_source(
    model: Path, vecnormalize: Path | None, interface: PolicyInterface | None
) -> tuple[SavedPolicy, PolicyFile]:
    content = read_policy_file(str(model))
    kind = format_of(str(model), content=content)
    if kind.read is None:
        known = " or ".join(one.title for one in FORMATS if one.read is not None)
        raise PolicyError(f"'{model}' is {kind.title}, which is not exported; give {known}")
    if vecnormalize is not None and not kind.takes_statistics:
        raise PolicyError(f"'{model}' is {kind.title}, which {NO_STATISTICS}")
    statistics = {} if vecnormalize is None else read_vecnormalize(vecnormalize)
    used = "" if vecnormalize is None else str(vecnormalize)
    sha256 = hashlib.sha256(content).hexdigest()
    file = PolicyFile(
        content,
        str(model),
        sha256,
        torch.device("cpu"),
        interface=interface or PolicyInterface(),
        statistics=statistics,
        vecnormalize=used,
    )
    return kind.read(file), file


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
    interface: PolicyInterface | None = None,
) -> dict[str, Any]:
    """Load a policy file of any format and compare it with its golden vectors and its source.

    Parameters
    ----------
    path, device, trusted
        See `load_policy`.
    against, vecnormalize, interface
        Source to compare with, its statistics, and what it does not say, see `export_policy`; None: not compared.

    Raises
    ------
    PolicyError
        When the file cannot be loaded, differs, or has neither golden vectors nor a source.
    """
    policy = load_policy(path, device=device, trusted=trusted)
    golden = policy.golden
    if golden is None and against is None:
        raise PolicyError(f"policy file '{path}' has no golden vectors; give its source with --against")
    source = None
    if against is not None:
        saved, file = _read_source(against, vecnormalize, interface)
        source = saved.build(file)
    errors = verify_policy(policy, golden, source)
    try:
        # A GPU sums in a different order.
        _demand(errors, str(path), TOLERANCE if select_device(device).type == "cpu" else GOLDEN_TOLERANCE)
    except PolicyError as error:
        if source is None or {source.normalisation, policy.normalisation} != {"none", "inside"}:
            raise
        raise PolicyError(
            f"{error}; its normalisation is {policy.normalisation}, that of the source {source.normalisation}: give "
            "the statistics of the source with --vecnormalize"
        ) from error
    return {
        "file": str(path),
        "device": device,
        "algorithm": policy.spec.algorithm,
        "normalisation": policy.normalisation,
        "sha256": policy.spec.sha256,
        **errors,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run `policy_export` or one of its subcommands."""
    words = list(sys.argv[1:] if argv is None else argv)
    run = {"verify": _run_verify, "info": _run_info, "import": _run_import}.get(words[0] if words else "")
    console = Console(stderr=True)
    with warnings_as_lines("policy_export", console):
        try:
            return _run_export(words, console) if run is None else run(words[1:], console)
        except PolicyError as error:
            print(f"policy_export: {error}", file=sys.stderr)
            return 1


def _run_export(words: Sequence[str], console: Console) -> int:
    arguments = make_parser().parse_args(words)
    with _progress(console) as progress, modules_beside(arguments.model):
        task = progress.add_task("starting", total=None)
        result = export_policy(
            arguments.model,
            arguments.format,
            arguments.output,
            arguments.vecnormalize,
            lambda step: progress.update(task, description=step),
            interface_of(arguments),
        )
    return _report_verified(result, arguments.json)


def _run_verify(words: Sequence[str], console: Console) -> int:
    arguments = make_verify_parser().parse_args(words)
    trusted = not arguments.untrusted
    try:
        with _progress(console) as progress, modules_beside(arguments.against, arguments.path if trusted else None):
            progress.add_task(f"verifying {arguments.path}", total=None)
            result = verify_file(
                arguments.path,
                arguments.against,
                arguments.vecnormalize,
                arguments.device,
                trusted,
                interface_of(arguments),
            )
    except PolicyError as error:
        if arguments.json:
            _write_json(arguments.json, {"file": str(arguments.path), "verified": False, "reason": str(error)})
        raise
    return _report_verified(result, arguments.json)


def _run_info(words: Sequence[str], console: Console) -> int:
    from policy_node.cli.policy_info import make_info_parser, show_info

    arguments = make_info_parser().parse_args(words)
    with modules_beside(arguments.path if arguments.trusted else None):
        return show_info(arguments)


def _run_import(words: Sequence[str], console: Console) -> int:
    return importlib.import_module("policy_node.cli.import_description").main(words)


def _progress(console: Console) -> Progress:
    return Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console)


def _report_verified(result: Mapping[str, Any], report: Path | None) -> int:
    """Print the result of an export or a verification, and write it as JSON."""
    shown = [
        f"{result[name]:.1e} of the action range from its {against}"
        for name, against in (("golden_error", "golden vectors"), ("source_error", "source"))
        if name in result
    ]
    print(
        f"{result['file']}: {result['algorithm']}, normalisation: {result['normalisation']}, verified, at most "
        f"{' and '.join(shown)}; SHA-256 {result['sha256']}"
    )
    if report:
        _write_json(report, {"verified": True, **result})
    return 0


def _write_json(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_export`."""
    parser = argparse.ArgumentParser(
        prog="policy_export",
        description="Write a policy of Stable-Baselines3 or a training checkpoint in another format, including its "
        "normalisation, and verify the file. A MODEL of Stable-Baselines3 is trusted: it can run code, and modules in "
        "its folder are found. Other commands, each with --help: policy_export verify (compare a file with its "
        "source), info (show what a policy file is) and import (write a parameter file from a trainer's description).",
        epilog="A bundle is data only and supports stochastic actions, but takes the classes of Stable-Baselines3 and "
        "sb3-contrib only. The other formats take any class that PyTorch can trace. Documentation: doc/policies.md",
    )
    parser.add_argument("model", type=Path, help="file of model.save(), or training checkpoint")
    add_checkpoint_options(parser)
    parser.add_argument("--format", choices=tuple(SUFFIXES), help="by default that of the output's suffix")
    parser.add_argument("--vecnormalize", type=Path, help="file of VecNormalize.save()")
    parser.add_argument("--output", type=Path, required=True, help="file to write, as policy.bundle or policy.onnx")
    parser.add_argument("--json", type=Path, help="JSON file for the result")
    return parser


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a training checkpoint does not."""
    parser.add_argument("--activation", choices=ACTIVATIONS, default="", help="as policy.activation")
    parser.add_argument(
        "--output-activation", choices=OUTPUT_ACTIVATIONS, default="", help="as policy.output_activation"
    )
    for name, default in (("low", -np.inf), ("high", np.inf)):
        parser.add_argument(f"--{name}", type=float, nargs="+", default=[default], help=f"as policy.{name}")
    parser.add_argument("--discrete", type=int, default=0, help="as policy.discrete")


def interface_of(arguments: argparse.Namespace) -> PolicyInterface:
    """Return what the options say of a training checkpoint."""
    low, high = (bound if len(bound) > 1 else bound[0] for bound in (arguments.low, arguments.high))
    return PolicyInterface(
        low=low,
        high=high,
        activation=arguments.activation,
        output_activation=arguments.output_activation,
        discrete=arguments.discrete,
    )


def make_verify_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_export verify`."""
    parser = argparse.ArgumentParser(
        prog="policy_export verify",
        description="Compare the actions of a file with its golden vectors and, with --against, with its source.",
    )
    parser.add_argument("path", type=Path, help="policy file")
    parser.add_argument("--against", type=Path, help="file of its source; it is trusted")
    add_checkpoint_options(parser)
    parser.add_argument("--vecnormalize", type=Path, help="statistics of that .zip file")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:<index> or auto (default cpu)")
    parser.add_argument("--untrusted", action="store_true", help="refuse a PATH that can run code")
    parser.add_argument("--json", type=Path, help="JSON file for the result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
