# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The page of the fleet in a browser, Chromium: what it shows, and what its buttons and keys do."""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_harness import LifecycleClient, NodeProcess, Peer, ScriptedFleet, command_values, parameters_of
from rover_simulation import rover_sim

from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file

CHROMIUM = shutil.which("chromium") or shutil.which("chromium", path=Path(sys.prefix) / "browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; test/browser_tools.sh gets it, where Debian has it"),
]

ROOT = Path(__file__).resolve().parents[2]
ROBOTS = ("robot_0", "robot_1", "robot_10")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 640}

StartNode = Callable[..., NodeProcess]
StartPage = Callable[..., tuple[Any, str]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """Return an empty page; a test fails if a script on it failed, or something was asked for elsewhere."""
    page = browser.new_page(viewport=WIDE)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if "Content Security" in line.text else None)
    page.on(
        "request",
        lambda asked: None if "//127.0.0.1:" in asked.url or asked.url[:5] == "data:" else problems.append(asked.url),
    )
    yield page
    page.close()
    assert not problems


class Watched:
    """A page that shows a fleet of scripted robots, driven by a node."""

    def __init__(self, page: Any, peer: Peer, robots: tuple[str, ...] = ROBOTS) -> None:
        self.page = page
        self.robots = robots
        self.fleet = ScriptedFleet(peer, robots)

    def state(self, robot: str) -> str:
        card = self.card(robot)
        return card.locator(".state").inner_text() if card.count() else ""

    def card(self, robot: str) -> Any:
        return self.page.get_by_role("article", name=robot, exact=True)

    def states(self, *robots: str) -> set[str]:
        return {self.state(robot) for robot in robots or self.robots}

    def drive(self, condition: Callable[[], Any], what: str, *robots: str) -> None:
        """Publish readings of some robots until a condition holds."""
        self.fleet.drive(condition, what, robots or self.robots)

    def is_safe(self, *robots: str) -> bool:
        """Whether the newest commands of robots are safe ones."""
        commands = self.fleet.commands
        return all(
            commands[robot] and not np.any(command_values(commands[robot][-1])) for robot in robots or self.robots
        )

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def watched(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: StartNode, start_page: StartPage, page: Any
) -> Watched:
    """Return the page of a fleet whose robots are all driven."""
    start_node(parameters_of(model()[0], ROBOTS, {"synchronisation.max_age_s": 2.0}), name="fleet")
    page.goto(start_page()[1])
    watched = Watched(page, peer)
    watched.drive(lambda: watched.states() == {"READY"}, "driven robots")
    return watched


def test_it_shows_every_robot_as_its_state_changes(watched: Watched) -> None:
    page = watched.page
    assert page.locator(".robot h3").all_inner_texts() == list(ROBOTS)
    images = page.get_by_role("img", name="image of robot_1, as the policy sees it")
    watched.drive(lambda: images.count() and images.evaluate("image => image.naturalWidth") == 36, "an image")
    shown = images.get_attribute("src")
    watched.drive(lambda: images.get_attribute("src") != shown, "the next image")
    bars = watched.card("robot_0").locator(".bars")
    assert bars.locator("span").all_inner_texts() == ["linear.x", "angular.z"]

    def shows_a_command() -> bool:
        texts = bars.locator("output").all_inner_texts()
        sent = [command_values(command) for command in watched.fleet.commands["robot_0"]]
        return "–" not in texts and any(np.allclose(command, list(map(float, texts)), atol=6e-4) for command in sent)

    watched.drive(shows_a_command, "a command of the robot")
    watched.drive(lambda: page.locator(".robot .commands canvas").count() == 3, "plots of the commands")
    watched.drive(lambda: page.locator(".ticks canvas, .ages canvas").count() == 2, "plots of the node")
    stages = page.locator(".stages th").all_inner_texts()
    assert stages == ["lateness", "tick", "take", "select", "stage", "infer", "guard", "publish", "stamp to command"]
    watched.drive(lambda: page.locator("#summary").inner_text() == "3 of 3 robots driven by 1 node", "all robots")

    # One robot fails, and the others drive on.
    watched.drive(lambda: watched.state("robot_10") == "STALE", "the failure", *ROBOTS[:2])
    watched.drive(lambda: " s old, " in watched.card("robot_10").locator(".reason").inner_text(), "why", *ROBOTS[:2])
    watched.drive(lambda: watched.states(*ROBOTS[:2]) == {"READY"}, "the others", *ROBOTS[:2])
    events = page.locator(".events li")
    watched.drive(lambda: any("robot_10 STALE" in text for text in events.all_inner_texts()), "event", *ROBOTS[:2])
    watched.drive(
        lambda: page.locator("#summary").inner_text() == "2 of 3 robots driven by 1 node", "both", *ROBOTS[:2]
    )
    reason = watched.card("robot_10").locator(".reason")
    watched.drive(lambda: watched.states() == {"READY"} and reason.inner_text() == "", "its return")

    # The timeline holds the colours of both states.
    colours = page.locator(".timeline").evaluate(
        """canvas => new Set(Array.from({length: canvas.width}, (_, x) =>
            canvas.getContext("2d").getImageData(x, canvas.height - 8, 1, 1).data.join())).size"""
    )
    assert colours >= 3


def test_it_shows_that_nobody_gets_the_commands_of_a_robot(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: StartNode, start_page: StartPage, page: Any
) -> None:
    start_node(parameters_of(model()[0], ("robot_0", "alone"), {"synchronisation.max_age_s": 2.0}))
    page.goto(start_page()[1])
    watched, problems = Watched(page, peer, ("robot_0",)), page.locator(".problems")
    expected = "nobody subscribes to /alone/cmd_vel"
    watched.drive(lambda: problems.count() and expected in problems.first.inner_text(), "the problem")


def test_its_buttons_stop_at_once_and_ask_before_they_resume(watched: Watched) -> None:
    page, answer = watched.page, watched.page.locator("#answer")
    watched.click("Stop all robots")
    watched.drive(lambda: watched.states() == {"STOPPED"} and watched.is_safe(), "the stop")
    assert "/fleet: stopped; 3 of 3 robots got their safe command" in answer.inner_text()
    watched.click("Resume all…")
    assert "all robots of /fleet again? It moves at once" in page.get_by_role("dialog").inner_text()
    watched.click("Cancel")
    watched.fleet.clear()
    watched.drive(lambda: all(len(commands) > 10 for commands in watched.fleet.commands.values()), "commands")
    assert watched.is_safe() and watched.states() == {"STOPPED"}
    watched.click("Resume robot_1")
    watched.click("Resume")
    watched.drive(lambda: watched.state("robot_1") == "READY" and not watched.is_safe("robot_1"), "one robot")
    assert watched.states("robot_0", "robot_10") == {"STOPPED"}
    watched.click("Stop robot_1")
    watched.drive(lambda: watched.state("robot_1") == "STOPPED", "its stop")
    watched.click("Resume all…")
    watched.click("Resume")
    watched.drive(lambda: watched.states() == {"READY"}, "all robots")
    watched.click("Reset robot_0")
    watched.drive(lambda: "reset of robot_0: the node has it" in answer.inner_text(), "the reset")


def test_it_swaps_the_policy(watched: Watched, model: Callable[..., tuple[Path, Any]]) -> None:
    page, answer = watched.page, watched.page.locator("#answer")
    figures = page.locator(".about .figures")
    first = figures.inner_text()
    for path, expected in (("nothing.zip", "nothing.zip"), (str(model(seed=2)[0]), "the policy is now")):
        watched.click("Swap policy…")
        page.get_by_label("Policy file, on the computer of the node").fill(path)
        page.keyboard.press("Enter")
        watched.drive(lambda: answer.is_visible() and expected in answer.inner_text(), "the answer")  # noqa: B023
        assert ("failed" in (answer.get_attribute("class") or "")) is (path == "nothing.zip")
    watched.drive(lambda: "seed_2" in figures.inner_text(), "the new policy")
    assert first.split("SHA-256")[1] != figures.inner_text().split("SHA-256")[1]


def test_keys_suffice(watched: Watched) -> None:
    page = watched.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "stop-all"
    page.keyboard.press("Enter")
    watched.drive(lambda: watched.states() == {"STOPPED"}, "the stop")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").is_visible()
    # The first button is the harmless one.
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Resume", exact=True).focus()
    page.keyboard.press("Enter")
    watched.drive(lambda: watched.states() == {"READY"}, "driven robots")
    page.keyboard.press("s")
    watched.drive(lambda: watched.states() == {"STOPPED"}, "the stop by its key")
    # A text with that letter stops nobody.
    page.get_by_role("button", name="Swap policy…").click()
    page.locator("#answer").evaluate("answer => { answer.hidden = true; }")
    page.get_by_label("Policy file, on the computer of the node").press_sequentially("s.zip")
    page.keyboard.press("Escape")
    watched.drive(lambda: True, "a moment")
    assert page.locator("#answer").is_hidden()


def test_it_says_when_what_it_shows_is_old(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: StartNode, start_page: StartPage, page: Any
) -> None:
    process = start_node(parameters_of(model()[0], ROBOTS, {}), name="fleet")
    monitor, address = start_page()
    page.goto(address)
    watched = Watched(page, peer)
    watched.drive(lambda: watched.states() == {"READY"}, "driven robots")
    assert page.get_by_role("alert").count() == 0

    # The node dies.
    process.send(signal.SIGKILL)
    alarm = page.locator(".node .alarm")
    watched.drive(alarm.is_visible, "the alarm")
    assert "No message from this node for" in alarm.inner_text() and page.locator(".level").inner_text() == "OLD"
    assert page.locator("#summary").inner_text().startswith("0 of 3 robots")

    # It returns.
    start_node(parameters_of(model()[0], ROBOTS, {}), name="fleet")
    watched.drive(lambda: watched.states() == {"READY"} and not alarm.is_visible(), "the node")

    # The server of the page ends, and returns.
    monitor.send_signal(signal.SIGINT)
    assert monitor.wait(20.0) == 0
    old = page.locator("#old")
    watched.drive(old.is_visible, "the loss of the connection")
    assert "what is shown is" in old.inner_text()
    page.keyboard.press("s")
    answer = page.locator("#answer.failed")
    watched.drive(answer.is_visible, "that a stop does not arrive")
    assert "use their emergency stop" in answer.inner_text()
    start_page("--port", address.rpartition(":")[2].strip("/"))
    watched.drive(lambda: not old.is_visible() and watched.states() == {"READY"}, "the connection")


def test_a_node_that_is_not_active_is_shown(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: StartNode, start_page: StartPage, page: Any
) -> None:
    page.goto(start_page()[1])
    nothing = page.locator("#nothing")
    peer.spin_until(lambda: "no node does" in nothing.inner_text(), "why there is no node")
    start_node(parameters_of(model()[0], ROBOTS, {"autostart": False}), name="fleet")
    message = page.locator(".node .message")
    peer.spin_until(lambda: message.count() and "unconfigured" in message.inner_text(), "the node")
    assert page.locator(".robot").count() == 0 and nothing.is_hidden()
    client = LifecycleClient(peer, "/fleet")
    assert client.change("configure") and client.change("activate")
    peer.spin_until(lambda: page.locator(".robot[data-state=WAITING]").count() == 3, "the robots")
    assert client.change("deactivate")
    peer.spin_until(lambda: "inactive" in message.inner_text() and page.locator(".robot").count() == 0, "no robots")


def test_on_a_narrow_screen_nothing_is_cut_and_the_stop_stays_at_hand(watched: Watched) -> None:
    page = watched.page
    page.set_viewport_size(NARROW)
    watched.drive(lambda: page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], "the width")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    watched.drive(lambda: page.evaluate("window.scrollY") > 200, "the scroll")
    box = page.locator("#stop-all").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= NARROW["height"]
    assert box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"]
    watched.click("Stop all robots")
    watched.drive(lambda: watched.states() == {"STOPPED"}, "the stop")


def test_it_shows_64_robots(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: StartNode, start_page: StartPage, page: Any
) -> None:
    robots = tuple(f"robot_{robot}" for robot in range(64))
    changes = {"control_rate_hz": 5.0, "synchronisation.max_age_s": 5.0, "synchronisation.slop_s": 1.0}
    start_node(parameters_of(model()[0], robots, changes), name="fleet")
    page.goto(start_page()[1])
    watched = Watched(page, peer, robots)
    watched.drive(lambda: page.locator("#summary").inner_text() == "64 of 64 robots driven by 1 node", "all robots")
    assert page.locator(".robot h3").all_inner_texts() == list(robots)
    watched.drive(lambda: page.locator(".images img").count() == 64, "an image of each")
    watched.click("Stop all robots")
    watched.drive(lambda: page.locator("#summary").inner_text() == "0 of 64 robots driven by 1 node", "the stop")


def test_two_nodes_are_stopped_at_once_or_one_alone(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: StartNode, start_page: StartPage, page: Any
) -> None:
    for name, robots in (("first", ROBOTS[:1]), ("second", ROBOTS[1:])):
        start_node(parameters_of(model()[0], robots, {"synchronisation.max_age_s": 2.0}), name=name)
    page.goto(start_page()[1])
    watched = Watched(page, peer)
    watched.drive(lambda: watched.states() == {"READY"}, "driven robots")
    assert page.locator("h2").all_inner_texts() == ["/first", "/second"]
    page.get_by_role("region", name="/second").get_by_role("button", name="Stop", exact=True).click()
    watched.drive(lambda: watched.states(*ROBOTS[1:]) == {"STOPPED"}, "the stop of one node")
    assert watched.state(ROBOTS[0]) == "READY"
    watched.click("Stop all robots")
    watched.drive(lambda: watched.states() == {"STOPPED"}, "the stop of both")
    answer = page.locator("#answer").inner_text()
    assert "/first: stopped" in answer and "/second: already stopped" in answer


def test_the_picture_of_the_documentation_is_of_this_page(
    peer: Peer, start_node: StartNode, start_page: StartPage, page: Any, pytestconfig: pytest.Config
) -> None:
    parameters = read_parameter_file(share_path("config", "rover.yaml"))
    robots = tuple(f"rover_{robot}" for robot in range(4))
    with rover_sim("--robots", "4", "--rate-hz", "20"):
        start_node({**parameters, "robots": list(robots), "policy.engine": "direct"})
        page.set_viewport_size({"width": 1160, "height": 900})
        page.goto(start_page()[1])
        summary = page.locator("#summary")
        peer.spin_until(lambda: summary.inner_text() == "4 of 4 robots driven by 1 node", "driven robots")
        peer.spin_until(lambda: page.locator(".robot img").count() == 4, "images")
        if pytestconfig.getoption("--write-pages"):
            # The plots show half a minute.
            peer.spin_for(32.0)
        page.get_by_role("button", name="Stop rover_3").click()
        peer.spin_until(lambda: summary.inner_text() == "3 of 4 robots driven by 1 node", "the stop")
        if pytestconfig.getoption("--write-pages"):
            peer.spin_for(8.0)
            page.locator("#answer").evaluate("answer => { answer.hidden = true; }")
            page.screenshot(path=ROOT / "doc" / "monitor.png", full_page=True)
