# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write a parameter file for a policy, with `--from-graph` for the topics of running robots (`policy_node init`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_node.cli.options import number
from policy_node.cli.policy_info import parse_interface, policy_info
from policy_node.config.rules import MISSING
from policy_node.config.schema import named
from policy_node.config.specs import ActionSpec, ArraySpec
from policy_node.policies import PolicyError
from policy_node.policies.described_parameters import (
    DescribedParameter,
    described_parameters,
    introduction,
    written_file,
)
from policy_node.policies.description import spec_from_json
from policy_node.policies.descriptions import TrainerDescription, find_description
from policy_node.policies.proposed_parameters import components_of, proposed_parameters

if TYPE_CHECKING:
    from policy_node.ros.discovery import Graph

DEFAULT_ROBOT = "robot_0"
LISTEN_S = 5.0
# Data are too old after so many periods of the slowest sensor.
MAX_AGE_PERIODS = 3.0
LEAST_MAX_AGE_S = 0.2
# What is known of a policy file, as far as a parameter file follows from it.
_KNOWN = ("observations", "action", "task")
# Most topics in a remark.
MOST_HEARD = 12


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_node init`."""
    parser = argparse.ArgumentParser(
        prog="policy_node init",
        description="Write a parameter file for a policy: from its spaces, from the description of its trainer, and "
        "with --from-graph from the topics of running robots. Comments say what is assumed and what is allowed.",
        epilog="Documentation: doc/getting_started.md",
    )
    parser.add_argument("policy", type=Path, help="policy file")
    parser.add_argument("--robots", nargs="+", default=[], metavar="ROBOT", help="namespaces of the robots")
    parser.add_argument(
        "--from-graph",
        nargs="?",
        const=LISTEN_S,
        type=number(float, 0.5, 3600.0),
        metavar="SECONDS",
        help=f"find the topics of the running robots; listens for so long (default {LISTEN_S:g})",
    )
    parser.add_argument("--output", type=Path, help="file to write (default: print it)")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--trusted", action="store_true", help="load POLICY although it can run code")
    parser.add_argument("--vecnormalize", type=Path, help="file of VecNormalize.save()")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=LENGTHS",
        help="shape of an input that the file does not say, as observation=45; once for each, in their order",
    )
    parser.add_argument(
        "--memory", action="append", default=[], metavar="INPUT=OUTPUT[:SHAPE]", help="as an entry of policy.memory"
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run `policy_node init`."""
    options = make_parser().parse_args(words)
    try:
        if options.output is not None and options.output.exists() and not options.force:
            raise PolicyError(f"--output: '{options.output}' exists; give another path, or --force to replace it")
        text, remarks = proposed_file(options)
        if options.output is None:
            print(text, end="")
        else:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(text, encoding="utf-8")
    except (PolicyError, OSError) as error:
        print(f"policy_node init: {error}", file=sys.stderr)
        return 1
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)
    if options.output is not None:
        print(f"{options.output}: read its comments, then check it: policy_node check {options.output} --live 10")
    return 0


def proposed_file(options: argparse.Namespace) -> tuple[str, list[str]]:
    """Return the text of the parameter file, and remarks for the user; raises PolicyError."""
    description: TrainerDescription | None
    try:
        description = find_description(options.policy)
    except PolicyError:
        description = None
    if description is not None and description.observations:
        return _from_description(description, options)
    observations, action, policy = _from_policy(options)
    remarks: list[str] = []
    if "policy.trusted" in policy and not options.trusted:
        bundle = options.policy.with_suffix(".bundle")
        remarks.append(
            f"loading {options.policy} can run code, so policy.trusted is false, which check and the node refuse: give "
            f"--trusted if you know where it comes from; or policy_export {options.policy} --output {bundle}, and init "
            "for that"
        )
    found: Mapping[str, Any] = {}
    names, comment = tuple(options.robots), ""
    if options.from_graph is not None:
        from policy_node.ros.discovery import Discovery, discover

        graph = _hear(options.from_graph)
        discovery: Discovery = discover(graph, observations, action, options.robots)
        found = discovery.found
        if found:
            names, comment = discovery.robots, "found by their topics"
        specs = {**observations, "action": action}
        remarks += [f"no topic fits {specs[name]}: see its comments" for name in discovery.missing]
        if discovery.missing:
            remarks.append(_heard_topics(graph))
        if len(discovery.commands) > 1 and components_of(action) > 1:
            remarks.append(
                f"the robots listen to {', '.join(discovery.commands)}; if the policy commands several of these, write "
                "actions.keys in place of action, see Several topics in doc/configuration.md"
            )
    robots = DescribedParameter(names or (DEFAULT_ROBOT,), comment if names else "ASSUMED: namespaces of the robots")
    entries = proposed_parameters(observations, action, policy, robots, found)
    shapes = interface.shapes if (interface := parse_interface(options.shape, [])) is not None else {}
    entries |= {f"observations.{key}.shape": DescribedParameter(shape) for key, shape in shapes.items()}
    if options.from_graph is not None:
        _note_rates(entries, discovery.slowest_hz, discovery.has_clock)
    first = [
        f"Written by policy_node init for {options.policy.name}.",
        "ASSUMED: neither the policy nor the topics say it, check it. `# name:` may be given.",
    ]
    return written_file(first, entries), remarks


def _heard_topics(graph: Graph) -> str:
    """Return the topics that were heard, or where they were looked for."""
    from policy_node.ros.domain import search_scope

    heard = [f"{topic.name} ({topic.text})" for topic in graph.heard]
    heard += [f"{name} ({kind}, a robot listens)" for name, kind in graph.commands.items()]
    if not heard:
        return (
            f"no topic at all was heard with {search_scope()}: start the robots, or set both variables here as for them"
        )
    return f"heard were {named(heard, MOST_HEARD)}"


def _note_rates(entries: dict[str, DescribedParameter], slowest_hz: float, has_clock: bool) -> None:
    """Let the largest age fit the slowest sensor, and follow simulated time where there is some."""
    if slowest_hz:
        age_s = max(LEAST_MAX_AGE_S, round(MAX_AGE_PERIODS / slowest_hz, 3))
        text = f"ASSUMED: the slowest sensor has {slowest_hz:.1f} Hz; older readings give the safe command"
        entries["synchronisation.max_age_s"] = DescribedParameter(age_s, text)
    if has_clock:
        entries["use_sim_time"] = DescribedParameter(True, "there is a /clock")


def _from_policy(
    options: argparse.Namespace,
) -> tuple[dict[str, ArraySpec], ActionSpec, dict[str, DescribedParameter]]:
    """Return inputs, action and the parameters `policy.…` of a policy file; raises PolicyError."""
    interface = parse_interface(options.shape, options.memory)
    info = policy_info(options.policy, "auto", options.trusted, options.vecnormalize, interface)
    if info["failed"] or not info.get("observations") or not info.get("action"):
        hint = "; give --trusted if you know where it comes from" if info["needs_trust"] else ""
        raise PolicyError(f"{info.get('not_loaded') or 'its inputs and outputs are not known'}{hint}")
    # What is known without loading the file may lack the rest.
    known = {"algorithm": "", "memory": [], "mask": 0, **{name: info[name] for name in _KNOWN if name in info}}
    spec = spec_from_json(known, info["sha256"])
    policy = {"policy.path": DescribedParameter(str(options.policy.resolve()))}
    if info["needs_trust"]:
        text = "loading the file can run code: true if you know where it comes from; or convert it with policy_export"
        policy["policy.trusted"] = DescribedParameter(bool(options.trusted), text)
    if options.vecnormalize is not None:
        policy["policy.vecnormalize"] = DescribedParameter(str(options.vecnormalize.resolve()))
    elif info["format"] == "sb3":
        text = "file of VecNormalize.save, if training normalised observations"
        policy["policy.vecnormalize"] = DescribedParameter(None, text, is_optional=True)
    if options.memory:
        policy["policy.memory"] = DescribedParameter(tuple(options.memory))
    if spec.task:
        text = f"{MISSING}what the robots are to do, as [one text] or one for each robot; or policy.task_topic"
        policy["policy.task"] = DescribedParameter(None, text)
    observed = {key: array for key, array in spec.observations.items() if key != spec.task}
    return observed, spec.action, policy


def _from_description(description: TrainerDescription, options: argparse.Namespace) -> tuple[str, list[str]]:
    """Return the file that follows from a trainer's description, with topics of the graph by their types."""
    entries = {"robots": DescribedParameter((DEFAULT_ROBOT,), "ASSUMED: namespaces of the robots")}
    entries |= described_parameters(description)
    if options.robots:
        entries["robots"] = DescribedParameter(tuple(options.robots))
    remarks: list[str] = []
    if options.from_graph is not None:
        from policy_node.ros.discovery import topics_by_type

        types = {
            name.removesuffix(".type"): str(entry.value)
            for name, entry in entries.items()
            if name.endswith(".type") and entry.value
        }
        robots, topics = topics_by_type(_hear(options.from_graph), types, options.robots)
        if robots:
            entries["robots"] = DescribedParameter(robots, "found by their topics")
        for prefix, found in topics.items():
            entries[f"{prefix}.topic"] = DescribedParameter(found.values["topic"], f"heard: {found.heard}")
        remarks += [f"no topic has the type of {prefix}" for prefix in types if prefix not in topics]
    return written_file(introduction(description), entries), remarks


def _hear(duration_s: float) -> Graph:
    """Listen to the topics of the running robots."""
    from policy_node.ros.discovery import hear
    from policy_node.ros.process import tool_node

    with tool_node("policy_node_init") as (node, stopping):
        print(f"listening for {duration_s:g} s …", file=sys.stderr, flush=True)
        return hear(node, duration_s, stopping)


if __name__ == "__main__":
    sys.exit(main())
