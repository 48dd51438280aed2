# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The server of the page, `policy_monitor --web`, without a browser: who may ask, and what it sends."""

import asyncio
import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from node_harness import NodeProcess, Peer, ScriptedFleet, command_values, end, parameters_of
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout, String

from policy_node.cli.monitor import DiagnosticsView
from policy_node.cli.operations import Operations
from policy_node.cli.web import server as web_server
from policy_node.cli.web.feed import Feed
from policy_node.cli.web.server import Server, is_loopback
from policy_node.control.timing import TickRecord
from policy_node.ros.diagnostics import timing_message

TOKEN = "secret"
PAGE = resources.files("policy_node.cli.web").joinpath("static", "index.html").read_text()


@pytest.fixture
def feed(peer: Peer) -> Feed:
    return Feed(peer.node, DiagnosticsView(peer.node, ""))


def asked(feed: Feed, peer: Peer, token: str, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """Return what a client gets from a server."""

    async def run() -> Any:
        async with TestClient(
            TestServer(Server(feed, Operations(peer.node, threading.Event()), token).application)
        ) as client:
            return await ask(client)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "headers, why",
    [
        # A name of another site that points to this machine, and a page of another site.
        ({"Host": "example.org"}, "found Host example.org, allowed: localhost, 127.0.0.1, ::1"),
        ({"Origin": "http://example.org"}, "a page of http://example.org asks"),
        ({"Origin": "null"}, "a page of null asks"),
    ],
)
def test_other_sites_are_refused(feed: Feed, peer: Peer, headers: dict[str, str], why: str) -> None:
    async def ask(client: Any) -> None:
        for path in ("/", "/messages", "/page.js"):
            response = await client.get(path, headers=headers)
            assert response.status == 403 and why in await response.text()
        response = await client.post("/act", json={"node": "fleet", "action": "resume"}, headers=headers)
        assert response.status == 403

    asked(feed, peer, "", ask)


def test_the_page_comes_with_a_policy_that_forbids_everything_from_elsewhere(feed: Feed, peer: Peer) -> None:
    async def ask(client: Any) -> None:
        response = await client.get("/")
        assert response.status == 200 and await response.text() == PAGE
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        for path in re.findall(r'(?:src|href)="([^"]+)"', PAGE):
            assert path == "data:," or (await client.get(f"/{path}")).status == 200, path

    asked(feed, peer, "", ask)


def test_the_plots_are_those_that_the_page_expects(feed: Feed, peer: Peer) -> None:
    async def ask(client: Any) -> None:
        found = re.findall(r'"(uplot\.\w+)"[^>]*integrity="sha384-([^"]+)"', PAGE.replace("\n", " "))
        assert len(found) == 2
        for path, expected in found:
            content = await (await client.get(f"/{path}")).read()
            assert base64.b64encode(hashlib.sha384(content).digest()).decode() == expected, path

    asked(feed, peer, "", ask)


def test_beyond_this_machine_a_token_is_needed(feed: Feed, peer: Peer) -> None:
    async def ask(client: Any) -> None:
        elsewhere = {"Host": "robots.example.org:8080"}
        for path in ("/", "/?token=wrong", "/page.js"):
            response = await client.get(path, headers=elsewhere)
            assert response.status == 403 and "open the address with its token" in await response.text()
        with pytest.raises(WSServerHandshakeError):
            await client.ws_connect("/messages")
        response = await client.post("/act", json={"node": "fleet", "action": "stop"})
        assert response.status == 403
        response = await client.get(f"/?token={TOKEN}", headers=elsewhere, allow_redirects=False)
        assert response.status == 303 and response.headers["Location"] == "/"
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        headers = {**elsewhere, "Cookie": cookie.partition(";")[0]}
        assert (await client.get("/", headers=headers)).status == 200

    asked(feed, peer, TOKEN, ask)


@pytest.mark.parametrize(
    "host, expected",
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("192.168.1.5", False), ("r", False)],
)
def test_only_addresses_of_this_machine_need_no_token(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "wish, status, why",
    [
        (b"no JSON", 400, "found no JSON with node and action"),
        (b"[]", 400, "found no JSON with node and action"),
        (b'{"node": "fleet", "action": "explode"}', 400, "action: found 'explode', allowed: stop, resume, reset, swap"),
        (b'{"node": 3, "action": "stop"}', 400, "action: found 'stop'"),
        (b'{"node": "nobody", "action": "stop"}', 404, "node: found 'nobody'"),
    ],
)
def test_a_wrong_request_is_named(feed: Feed, peer: Peer, wish: bytes, status: int, why: str) -> None:
    async def ask(client: Any) -> None:
        response = await client.post("/act", data=wish)
        assert response.status == status and why in await response.text()

    asked(feed, peer, "", ask)


def test_a_page_that_is_too_slow_is_closed(feed: Feed, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "MOST_WAITING", 2)
    stopping = threading.Event()
    server = Server(feed, Operations(peer.node, stopping), "")

    async def run() -> None:
        async with TestClient(TestServer(server.application)) as client:
            running = asyncio.create_task(server.run(stopping))
            socket = await client.ws_connect("/messages")
            first = await socket.receive_json()
            assert first["messages"] == [] and "does not publish on /diagnostics" in first["why_nothing"]
            (page,) = server._pages
            for _ in range(4):
                page.put("{}")
            stopping.set()
            await running
            while not socket.closed:
                await socket.receive()
            assert not server._pages

    asyncio.run(run())


# The messages.


def preview_of(robots: list[str], states: list[str], reasons: dict[str, str], **images: dict[str, str]) -> String:
    """Return a preview of robots that get no commands."""
    figures = {"components": ["x"], "low": [None], "high": [None], "ages_ms": [None] * len(robots)}
    content = {
        "robots": robots,
        "states": states,
        "reasons": reasons,
        "commands": [None] * len(robots),
        "images": images,
    }
    return String(data=json.dumps(figures | content))


class Reports:
    """Publishes what a node publishes."""

    def __init__(self, peer: Peer, feed: Feed) -> None:
        self._peer, self._feed = peer, feed
        create = peer.node.create_publisher
        self.diagnostics = create(DiagnosticArray, "/diagnostics", 10)
        self.timing = create(Float64MultiArray, "/fleet/timing", 10)
        self.preview = create(String, "/fleet/preview", 10)

    def status(self, part: str, **values: str) -> None:
        pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
        self.diagnostics.publish(DiagnosticArray(status=[DiagnosticStatus(name=f"fleet: {part}", values=pairs)]))

    def next(self, kind: str, publish: Callable[[], None]) -> dict[str, Any]:
        """Publish until the feed gives a message of a kind."""
        found: list[dict[str, Any]] = []

        def arrived() -> bool:
            publish()
            found.extend(message for message in self._feed.take(is_watched=True) if message["kind"] == kind)
            return bool(found)

        self._peer.spin_until(arrived, kind)
        return found[0]


@pytest.fixture
def reports(peer: Peer, feed: Feed) -> Reports:
    reports = Reports(peer, feed)
    reports.next("status", lambda: reports.status("control", lifecycle_state="active", robots="2"))
    return reports


def test_states_come_with_their_reasons_and_each_change_is_an_event(reports: Reports, feed: Feed) -> None:
    def preview(state: str, reason: str) -> None:
        reports.preview.publish(preview_of(["robot_0", "robot_1"], ["READY", state], {"1": reason}))

    first = reports.next("preview", lambda: preview("WAITING", "no image yet"))
    assert first["node"] == "fleet" and first["states"] == ["READY", "WAITING"]
    changed = reports.next("event", lambda: preview("STALE", "its readings are old"))
    if changed["state"] == "READY":
        changed = reports.next("event", lambda: preview("STALE", "its readings are old"))
    events = [message for message in feed.history() if message["kind"] == "event" and message["part"] == "robot_1"]
    assert [(event["state"], event["reason"]) for event in events] == [
        ("WAITING", "no image yet"),
        ("STALE", "its readings are old"),
    ]


def test_every_tick_has_a_time(reports: Reports) -> None:
    rows = [TickRecord(0.001, 0.002, 0, {}, np.array([0.003 * tick, np.nan])) for tick in range(4)]
    timing = reports.next("timing", lambda: reports.timing.publish(timing_message(rows)))
    assert timing["lateness"] == [1.0] * 4 and timing["duration"] == [2.0] * 4
    assert timing["age"] == [0.0, 3.0, 6.0, 9.0]
    assert len(timing["ticks"]) == 4 and timing["ticks"] == sorted(timing["ticks"])
    assert timing["ticks"][-1] == pytest.approx(timing["t"], abs=1e-3)


def test_a_node_that_is_not_active_has_no_robots(reports: Reports, feed: Feed) -> None:
    reports.next("preview", lambda: reports.preview.publish(preview_of(["robot_0"], ["READY"], {})))
    reports.next("status", lambda: reports.status("robot_0", state="READY"))
    assert ["control", "robot_0"] == [found["part"] for found in feed.history() if found["kind"] == "status"]
    reports.next("event", lambda: reports.status("control", lifecycle_state="inactive"))
    assert ["control"] == [found["part"] for found in feed.history() if found["kind"] == "status"]
    events = [found["state"] for found in feed.history() if found["kind"] == "event" and found["part"] == "robot_0"]
    assert events == ["READY", "INACTIVE"]


def test_a_node_that_has_another_name_now_is_gone(reports: Reports, feed: Feed, peer: Peer) -> None:
    reports.next("preview", lambda: reports.preview.publish(preview_of(["robot_0"], ["READY"], {})))
    # Nothing is on its way any more.
    peer.spin_for(0.3)
    feed.take(is_watched=True)
    view = feed._view
    view.nodes["fleet (host 12)"] = view.nodes.pop("fleet")
    messages = feed.take(is_watched=True)
    assert [(found["kind"], found["node"]) for found in messages[:2]] == [
        ("status", "fleet (host 12)"),
        ("gone", "fleet"),
    ]
    assert {found["node"] for found in feed.history()} == {"fleet (host 12)"}
    # Its topics have the name without the process.
    reports.next("preview", lambda: reports.preview.publish(preview_of(["robot_0"], ["READY"], {})))


def test_something_else_on_the_topics_is_ignored(reports: Reports, feed: Feed) -> None:
    good = json.loads(preview_of(["robot_0"], ["READY"], {}).data)
    wrong = [json.dumps({**good, **change}) for change in ({"robots": 1}, {"reasons": []}, {"states": [[]]})]
    for text in ("no JSON", "[1]", "{}", "[" * 100_000, *wrong):
        reports.preview.publish(String(data=text))
    for sizes in ([3, 4], [0, 5], [2, 1], [2]):
        layout = MultiArrayLayout(dim=[MultiArrayDimension(size=size) for size in sizes])
        reports.timing.publish(Float64MultiArray(layout=layout, data=[1.0, 2.0]))
    foreign = DiagnosticStatus(name="no name!: control", values=[KeyValue(key="lifecycle_state", value="active")])
    reports.diagnostics.publish(DiagnosticArray(status=[foreign]))
    reports.next("status", lambda: reports.status("control", lifecycle_state="active", robots="2"))
    assert not [message for message in feed.history() if message["kind"] in ("preview", "timing")]


def test_a_page_that_is_opened_later_knows_what_happened(reports: Reports, feed: Feed) -> None:
    reports.next("status", lambda: reports.status("robot_0", state="STOPPED", reason="stopped by an operator"))
    stopped = preview_of(["robot_0"], ["STOPPED"], {"0": "stopped"}, robot_0={"camera": "a JPEG"})
    reports.next("preview", lambda: reports.preview.publish(stopped))
    history = feed.history()
    assert {message["kind"] for message in history} == {"status", "preview", "event"}
    # Images are of the present.
    assert all(message["images"] == {} for message in history if message["kind"] == "preview")


# The whole.


def test_a_request_stops_and_resumes_the_robots(
    model: Callable[..., tuple[Path, Any]],
    peer: Peer,
    start_node: Callable[..., NodeProcess],
    start_page: Callable[..., tuple[Any, str]],
) -> None:
    robots = ("robot_0", "robot_1")
    start_node(parameters_of(model()[0], robots, {}), name="fleet")
    process, address = start_page()
    fleet = ScriptedFleet(peer, robots)
    fleet.drive(lambda: all(map(is_driven, fleet.commands.values())), "commands")

    def act(**wish: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{address}act", json.dumps({"node": "fleet", **wish}).encode())
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def is_known() -> bool:
        # The node reports once a second.
        try:
            return bool(act(action="resume")["done"])
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return False

    fleet.drive(is_known, "the page to know the node")
    assert act(action="stop") == {
        "done": True,
        "answer": "stopped; 2 of 2 robots got their safe command, until ~/resume is called",
    }
    fleet.drive(lambda: not any(map(is_driven, fleet.commands.values())), "safe commands")
    assert act(action="resume", robot="robot_1")["done"]
    fleet.drive(lambda: is_driven(fleet.commands["robot_1"]), "commands of one robot")
    assert not is_driven(fleet.commands["robot_0"])
    refused = act(action="swap", path="nothing.zip")
    assert not refused["done"] and "nothing.zip" in refused["answer"]
    assert end(process) and process.returncode == 0


def is_driven(commands: list[Any]) -> bool:
    return bool(commands) and bool(np.any(command_values(commands[-1])))


def test_a_port_that_is_taken_is_named(start_page: Callable[..., tuple[Any, str]]) -> None:
    _, address = start_page()
    port = address.rpartition(":")[2].strip("/")
    command = [sys.executable, "-m", "policy_node.cli.monitor", "--web", "--port", port]
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 1
    assert f"the page cannot be served at 127.0.0.1, port {port} " in second.stderr and "--port" in second.stderr
