# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Starts robots under test as copies of one process that has imported everything and opened nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from policy_node_bench.chaos.robot import intruder_process, robot_process

TARGETS = {"robot": robot_process, "intruder": intruder_process}


def main() -> None:
    """Start robots on request.

    Each request through the connection, whose file descriptor is the only argument, is a target's name, its options and
    one end of a connection of its own; the answer is the process id. Ends when the connection is closed.
    """
    server = Connection(int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Robots have computers of their own: here they must not take the node's time, least of all when they start.
    os.nice(10)
    # Nobody waits for those that end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with contextlib.suppress(EOFError):
        while True:
            target, options = server.recv()
            connection = Connection(recv_handle(server))
            pid = os.fork()
            if pid == 0:
                server.close()
                try:
                    TARGETS[target](connection, options)
                except Exception:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(0)
            connection.close()
            server.send(pid)


if __name__ == "__main__":
    main()
