# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench chaos`: inject faults of all kinds, several at a time, and judge the node by its commands."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from policy_node.cli.options import number
from policy_node.cli.process_environment import profile_variable
from policy_node.config.schema import ConfigurationError, RealtimeConfiguration
from policy_node.control.realtime import check_realtime
from policy_node_bench.chaos.report import show, write_markdown
from policy_node_bench.command import Command, option
from policy_node_bench.harness.processes import ros_session

# How long a fault that does not heal delays the next one.
PATIENCE_S = 10.0
BUSY_PATIENCE_S = 60.0
NICENESS = 19
BUSY_NICENESS = 10
# In the discovery range LOCALHOST the middleware adds shared memory to the transports of a profile. The range is
# therefore that of the profile, which is limited to the loopback interface, too.
UDP_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com"><profiles>
  <transport_descriptors><transport_descriptor>
    <transport_id>loopback</transport_id><type>UDPv4</type>
    <sendBufferSize>1048576</sendBufferSize><receiveBufferSize>1048576</receiveBufferSize>
    <interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>
    <maxInitialPeersRange>40</maxInitialPeersRange>
  </transport_descriptor></transport_descriptors>
  <participant profile_name="loopback" is_default_profile="true"><rtps>
    <userTransports><transport_id>loopback</transport_id></userTransports>
    <useBuiltinTransports>false</useBuiltinTransports>
    <builtin>
      <initialPeersList><locator><udpv4><address>127.0.0.1</address></udpv4></locator></initialPeersList>
      <discovery_config>
        <leaseAnnouncement><nanosec>500000000</nanosec></leaseAnnouncement>
        <initialAnnouncements><count>20</count><period><nanosec>100000000</nanosec></period></initialAnnouncements>
      </discovery_config>
    </builtin>
  </rtps></participant>
</profiles></dds>
"""


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """The options of `policy_bench chaos`."""

    robots: int = option(16, "number of robots", type=number(int, 2))
    seconds: float = option(180.0, "length of the run after its start", type=number(float, 20))
    seed: int = option(0, "seed of the schedule of faults", type=number(int, 0))
    rate_hz: float = option(20.0, "rate of control and sensors", "--rate", type=number(float, 1), metavar="HZ")
    max_age_s: float = option(0.2, "synchronisation.max_age_s", "--max-age", type=number(float, 0.1), metavar="S")
    inference: str = option(
        "tick",
        "policy.inference; in the background, commands follow from plans, which a swap drops",
        choices=("tick", "background"),
    )
    transport: str = option(
        "udp",
        "udp: as between machines; shm: shared memory, in which a killed process can block the others for seconds",
        choices=("udp", "shm"),
    )
    priority: int = option(
        50,
        "realtime.priority of the node, 0 where the system refuses it; without one, robots that start take CPU time "
        "from the node, because they run on the same computer",
        type=number(int, 0, 99),
    )
    busy: bool = option(
        False, "for a machine with other load: report times, but do not judge them", action="store_true"
    )

    @property
    def patience_s(self) -> float:
        """Longest time for a fault to begin, and to heal after its end."""
        return BUSY_PATIENCE_S if self.busy else PATIENCE_S

    @property
    def niceness(self) -> int:
        """Niceness of the robots and of a second node.

        Real robots have separate computers; here they must not take CPU time from the node. With other load on the
        machine, they need a larger share to run at all.
        """
        return BUSY_NICENESS if self.busy else NICENESS


def _granted(options: ChaosOptions) -> ChaosOptions:
    """Return the options with the priority that the system grants."""
    try:
        check_realtime(RealtimeConfiguration(options.priority, (), freeze_gc=True, switch_interval_s=0.0))
    except ConfigurationError:
        return replace(options, priority=0)
    return options


def measure(options: ChaosOptions, console: Console) -> dict[str, Any]:
    """Run a campaign with the transport and return the figures."""
    with tempfile.TemporaryDirectory(prefix="policy_bench_") as folder:
        if options.transport == "udp":
            file = Path(folder, "udp.xml")
            file.write_text(UDP_PROFILE)
            os.environ[profile_variable()] = str(file)
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"
        with ros_session():
            from policy_node_bench.chaos.campaign import run_chaos

            return run_chaos(_granted(options), console)


COMMAND = Command(
    "chaos",
    "inject faults of all kinds, several at a time: is each robot stopped, and driven again afterwards?",
    "Run the robots and the node in separate processes, make publishers, data, clocks and policy fail, and judge the "
    "node by its commands. The exit status is 1 if there are violations.",
    ChaosOptions,
    measure,
    show,
    {"markdown": ("write a section for a document to this file", write_markdown)},
)
