# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Serve the page: its files, its messages over a WebSocket, and what its buttons ask for.

Whoever reaches the page can stop and move robots. Requests of other sites are refused by their `Origin`, and names that
others made point here by the `Host`; addresses beyond this machine need the token that is printed at the start.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from rclpy.node import Node

from policy_node.cli.monitor import DiagnosticsView
from policy_node.cli.operations import OPERATIONS, Answer, OperationError, Operations
from policy_node.cli.web.feed import Feed, Message, owner_of
from policy_node.ros.rclpy_internals import spinning

SWAP = "swap"
ACTIONS = (*OPERATIONS, SWAP)
# Period of the look at the topics, and of messages to the pages.
POLL_S = 0.05
SEND_S = 0.2
# Messages that wait for a page: one that is slower is closed, connects again and gets the present.
MOST_WAITING = 50
HEARTBEAT_S = 5.0
MAX_REQUEST_BYTES = 10_000
COOKIE = "policy_monitor_token"
PLOTS = "youplot"
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PLOT_FILES = {"/uplot.js": ("uplot.iife.min.js", "text/javascript"), "/uplot.css": ("uplot.min.css", "text/css")}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Page:
    """One open page, with the texts that wait for it."""

    def __init__(self) -> None:
        self.texts: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        #: Whether it does not yet know what happened before.
        self.is_new = True
        self.is_slow = False

    def put(self, text: str) -> None:
        """Queue a text, or note that the page is too slow."""
        try:
            self.texts.put_nowait(text)
        except asyncio.QueueFull:
            self.is_slow = True


class Server:
    """Serves pages of a feed; everything runs in the thread of the event loop."""

    def __init__(self, feed: Feed, operations: Operations, token: str) -> None:
        self._feed = feed
        self._operations = operations
        self._token = token
        self._pages: set[_Page] = set()
        self._files = {path: (_own_file(name), kind) for path, (name, kind) in FILES.items()}
        self._files |= {path: (_plot_file(name), kind) for path, (name, kind) in PLOT_FILES.items()}
        self.application = web.Application(middlewares=[self._guard], client_max_size=MAX_REQUEST_BYTES)
        for path in self._files:
            self.application.router.add_get(path, self._get_file)
        self.application.router.add_get("/messages", self._get_messages)
        self.application.router.add_post("/act", self._post_act)

    async def run(self, stopping: threading.Event) -> None:
        """Poll the topics and send messages to the pages until `stopping` is set."""
        messages: list[Message] = []
        sent_s = 0.0
        while not stopping.is_set():
            messages += self._feed.take(is_watched=bool(self._pages))
            for node in self._feed.nodes:
                # What fails now, as for a right that SROS 2 denies, is said when it is asked for.
                with suppress(Exception):
                    self._operations.prepare(f"/{owner_of(node)}")
            if time.monotonic() - sent_s >= SEND_S:
                sent_s = time.monotonic()
                self._send_all(messages)
                messages = []
            await asyncio.sleep(POLL_S)

    def _send_all(self, messages: list[Message]) -> None:
        """Send messages to the pages, and to new pages also those before them."""
        for is_new in (False, True):
            # Known pages first: the new ones become known here.
            pages = [page for page in self._pages if page.is_new is is_new]
            text = self._packed(self._feed.history() if is_new else messages) if pages else ""
            for page in pages:
                page.put(text)
                page.is_new = False

    def _packed(self, messages: list[Message]) -> str:
        """Return messages with the present time; also without any, because the page counts on them."""
        return json.dumps({"t": time.time(), "why_nothing": self._feed.why_nothing(), "messages": messages})

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests of other sites and without the token; add the headers of every answer."""
        given = request.query.get("token")
        if problem := self._problem(request, given):
            return web.Response(status=403, text=problem, headers=HEADERS)
        if given is not None and request.path == "/":
            # The token leaves the address, which a browser stores and shows.
            redirect = web.Response(status=303, headers={"Location": "/", **HEADERS})
            redirect.set_cookie(COOKIE, given, httponly=True, samesite="Strict")
            return redirect
        response = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _problem(self, request: web.Request, given: str | None) -> str:
        """Return why a request is refused; empty if it is not."""
        host = urlsplit(f"//{request.host}").hostname
        if not self._token and not is_loopback(host or ""):
            return f"refused: found Host {host}, allowed: {', '.join(LOCAL_NAMES)}"
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return f"refused: a page of {origin} asks"
        found = request.cookies.get(COOKIE, "") if given is None else given
        if self._token and not secrets.compare_digest(found.encode(), self._token.encode()):
            return "refused: open the address with its token that policy_monitor has printed"
        return ""

    async def _get_file(self, request: web.Request) -> web.Response:
        content, kind = self._files[request.path]
        return web.Response(body=content, content_type=kind, charset="utf-8")

    async def _get_messages(self, request: web.Request) -> web.WebSocketResponse:
        channel = web.WebSocketResponse(heartbeat=HEARTBEAT_S)
        await channel.prepare(request)
        page = _Page()
        self._pages.add(page)
        sending = asyncio.create_task(self._send(page, channel))
        try:
            async for _ in channel:
                # A page says nothing.
                pass
        finally:
            self._pages.discard(page)
            sending.cancel()
        return channel

    async def _send(self, page: _Page, channel: web.WebSocketResponse) -> None:
        while not page.is_slow:
            try:
                await channel.send_str(await page.texts.get())
            except ConnectionError:
                break
        await channel.close()

    async def _post_act(self, request: web.Request) -> web.Response:
        try:
            wish = await request.json()
            node, action = wish["node"], wish["action"]
            robot, path = wish.get("robot", ""), wish.get("path", "")
        except (ValueError, KeyError, TypeError, AttributeError):
            return web.Response(status=400, text="found no JSON with node and action")
        if not all(isinstance(word, str) for word in (node, action, robot, path)) or action not in ACTIONS:
            return web.Response(status=400, text=f"action: found {action!r}, allowed: {', '.join(ACTIONS)}")
        if node not in self._feed.nodes:
            return web.Response(status=404, text=f"node: found {node!r}, known: {', '.join(self._feed.nodes)}")
        try:
            done, answer = await self._act(f"/{owner_of(node)}", action, robot, path)
        except OperationError as error:
            done, answer = False, str(error)
        except Exception as error:  # such as a right that SROS 2 denies
            done, answer = False, f"{action} failed: {type(error).__name__}: {error}"
        return web.json_response({"done": done, "answer": answer})

    async def _act(self, name: str, action: str, robot: str, path: str) -> Answer:
        if action == SWAP:
            return await self._operations.swap(name, {"policy.path": path})
        return await self._operations.operate(name, action, robot)


def _own_file(name: str) -> bytes:
    return resources.files("policy_node.cli.web").joinpath("static", name).read_bytes()


def _plot_file(name: str) -> bytes:
    """Return a file of uPlot from the package that carries it, without importing that."""
    spec = importlib.util.find_spec(PLOTS)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {PLOTS!r}", name=PLOTS)
    return Path(spec.submodule_search_locations[0], "vendor", name).read_bytes()


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(node: Node, view: DiagnosticsView, host: str, port: int, stopping: threading.Event) -> int:
    """Serve the page until `stopping` is set; print its address. Return the exit status."""
    token = "" if is_loopback(host) else secrets.token_urlsafe(16)
    server = Server(Feed(node, view), Operations(node, stopping), token)
    with spinning(node):
        return asyncio.run(_serve(server, host, port, token, stopping))


async def _serve(server: Server, host: str, port: int, token: str, stopping: threading.Event) -> int:
    runner = web.AppRunner(server.application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            print(
                f"the page cannot be served at {host}, port {port} ({error.strerror}): give another --port or --host",
                file=sys.stderr,
            )
            return 1
        print(f"the page is at {_address(host, runner.addresses[0][1], token)}", flush=True)
        await server.run(stopping)
        return 0
    finally:
        await runner.cleanup()


def _address(host: str, port: int, token: str) -> str:
    """Return the address of the page, with a name of this machine where it listens at all of them."""
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/{f'?token={token}' if token else ''}"
