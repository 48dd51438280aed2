# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Operate running policy nodes from a terminal without the `ros2` command (`policy_ctl`)."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from policy_node.cli.monitor import DiagnosticsView, as_table
from policy_node.cli.operations import OPERATIONS, TIMEOUT_S, TRANSITIONS, Answer, OperationError, Operations
from policy_node.cli.options import number
from policy_node.cli.output import make_console
from policy_node.ros.process import tool_node
from policy_node.ros.rclpy_internals import spinning


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_ctl`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--node", default="", help="full name, such as /policy_node; needed if there are several nodes")
    shared.add_argument("--all", action="store_true", help="give the command to every policy node that is found")
    shared.add_argument(
        "--timeout-s",
        type=number(float, 0.1, 3600),
        default=TIMEOUT_S,
        help=f"longest wait for the node and its answer (default {TIMEOUT_S:g})",
    )
    parser = argparse.ArgumentParser(
        prog="policy_ctl",
        description="Operate running policy nodes, without the ros2 command. The exit status is 1 if a node refuses.",
        epilog="Documentation: doc/safety.md",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = {
        "status": "show the nodes and their robots",
        "stop": "send every robot, or one, its safe command until resume",
        "resume": "let the policy drive every robot, or one, again",
        "reset": "start a new episode of every robot, or one",
        "swap": "load another policy and switch to it between two ticks",
        "configure": "load the policy and open the topics",
        "activate": "drive the robots",
        "deactivate": "send every robot its safe command and stop driving",
        "cleanup": "close the topics and free the policy",
    }
    for name, text in about.items():
        command = commands.add_parser(name, parents=[shared], help=text, description=text[0].upper() + text[1:] + ".")
        if name in OPERATIONS:
            command.add_argument("robot", nargs="?", help="name of a robot (default: all)")
        if name == "swap":
            command.add_argument("policy", help="policy file on the computer of the node, as for policy.path")
            command.add_argument("--sha256", help="SHA-256 that the file must have")
            command.add_argument("--vecnormalize", help="file of VecNormalize.save()")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `policy_ctl`."""
    arguments = sys.argv if arguments is None else ["policy_ctl", *arguments]
    options = make_parser().parse_args(remove_ros_args(arguments)[1:])
    with tool_node(f"policy_ctl_{os.getpid()}", arguments) as (node, stopping):
        try:
            if options.command == "status":
                return _status(node, options, stopping)
            with spinning(node):
                return asyncio.run(_act(Operations(node, stopping, options.timeout_s), options))
        except OperationError as error:
            print(f"policy_ctl: {error}", file=sys.stderr)
            return 1


async def _act(operations: Operations, options: argparse.Namespace) -> int:
    """Give the command to the chosen nodes; return the exit status."""
    names = await operations.find(f"/{options.node.strip('/')}" if options.node else "")
    if len(names) > 1 and not options.all:
        raise OperationError(f"there are several policy nodes, {', '.join(names)}; choose with --node, or give --all")
    # At once, so that a node that does not answer keeps no other one from its stop.
    answers = await asyncio.gather(*(_give(operations, name, options) for name in names))
    for name, (success, text) in zip(names, answers, strict=True):
        print(f"{name}: {text}", file=sys.stdout if success else sys.stderr, flush=True)
    return int(not all(success for success, _ in answers))


async def _give(operations: Operations, name: str, options: argparse.Namespace) -> Answer:
    """Give the command to one node; return success and its answer, or why there is none."""
    try:
        return await _command(operations, name, options)
    except OperationError as error:
        return False, str(error)


async def _command(operations: Operations, name: str, options: argparse.Namespace) -> Answer:
    if options.command in TRANSITIONS:
        return await operations.change(name, options.command)
    if options.command == "swap":
        given = {
            "policy.path": _resolved(options.policy),
            "policy.sha256": options.sha256,
            "policy.vecnormalize": options.vecnormalize and _resolved(options.vecnormalize),
        }
        return await operations.swap(name, {key: value for key, value in given.items() if value is not None})
    return await operations.operate(name, options.command, options.robot or "")


def _resolved(file: str) -> str:
    """Return the full path of a file of this machine: the node mostly runs in another folder."""
    return str(Path(file).resolve()) if Path(file).exists() else file


def _status(node: Node, options: argparse.Namespace, stopping: threading.Event) -> int:
    """Print the nodes and their robots; return the exit status."""
    view = DiagnosticsView(node, options.node)
    view.wait(options.timeout_s, stopping)
    if not view.nodes:
        raise OperationError(view.why_nothing())
    make_console().print(as_table(view))
    return 0


if __name__ == "__main__":
    sys.exit(main())
