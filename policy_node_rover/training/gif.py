# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""An episode as an animation: what the camera sees, what the bumper feels, the commands, and the arena from above."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from policy_node.report.animation import BACKGROUND, FAINT, PRESSED, TEXT, font, save_animation
from policy_node_rover.arena.description import ROVER
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.environment import CONTROL_PERIOD_S
from policy_node_rover.mujoco.rendering import OVERHEAD_HALF_WIDTH_M, Renderer
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv

# One picture for so many control periods.
STEPS_PER_FRAME = 2
FRAME_MS = round(1e3 * STEPS_PER_FRAME * CONTROL_PERIOD_S)
LAST_FRAME_MS = 1500
# More are too large for a file that is looked at.
MOST_DRAWN_EPISODES = 3
COLOURS = 256
MAX_GIF_BYTES = 3_000_000

PANEL_PX = 192
CHART_PX = 216
GAP_PX = 16
TOP_PX = 68
BOTTOM_PX = 40
WIDTH_PX = 3 * PANEL_PX + CHART_PX + 5 * GAP_PX
HEIGHT_PX = TOP_PX + PANEL_PX + BOTTOM_PX

# What is drawn this many times larger and then made small has smooth edges.
_SMOOTH = 4
_OVERHEAD_PX = 2 * PANEL_PX
_PX_PER_M = _OVERHEAD_PX / (2 * OVERHEAD_HALF_WIDTH_M)
_GROUND = (34, 37, 44)
_LINE = (72, 77, 88)
_FORWARD = (88, 166, 255)
_TURN = (240, 176, 80)
_PATH = (255, 255, 255)
_UNSEEN = (84, 212, 200)
# From no force to the largest: each with its red, green and blue.
_FORCES = np.array([(52, 57, 67), (248, 204, 92), (240, 128, 60), (226, 54, 70)], float)
_FORCE_STEPS = 16

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Moment:
    """One moment of an episode.

    Attributes
    ----------
    time_s
        Since the start of the episode.
    image
        What the driver gets to see, uint8 [64, 64, 3].
    touch_n
        What it feels, newtons, float32 [8].
    action
        What it commands: forward speed in m/s, turn rate in rad/s.
    arena
        From above, uint8 [192, 192, 3].
    position_m
        Of the rover in its arena, x and y.
    """

    time_s: float
    image: np.ndarray
    touch_n: np.ndarray
    action: np.ndarray
    arena: np.ndarray
    position_m: tuple[float, float]


@dataclass(eq=False)
class RecordedEpisode:
    """An episode for the animation; `success` is None until it ends."""

    moments: list[Moment] = field(default_factory=list)
    success: bool | None = None


class EpisodeRecorder(VecEnvWrapper):
    """Arenas of which some episodes are kept for an animation.

    Parameters
    ----------
    rovers
        The arenas.
    seeds
        Of the episodes that are kept.
    blanked
        The observation in whose place the driver reads zeros; None for none.

    Attributes
    ----------
    episodes
        What was recorded, by seed.
    """

    def __init__(self, rovers: RoverArenaVecEnv, seeds: Collection[int], blanked: str | None = None) -> None:
        super().__init__(rovers)
        self._rovers = rovers
        self._blanked = blanked
        self._current: dict[str, np.ndarray] = {}
        self._steps = np.zeros(rovers.num_envs, int)
        self.episodes = {seed: RecordedEpisode() for seed in seeds}

    def reset(self) -> VecEnvObs:
        """Start an episode in every arena."""
        return self._keep(self.venv.reset())

    def step_async(self, actions: np.ndarray) -> None:
        """Record what led to the actions, float32 [arenas, 2], and pass them on."""
        for row, seed in enumerate(self._rovers.running_seeds):
            if seed in self.episodes and self._steps[row] % STEPS_PER_FRAME == 0:
                arena = self._rovers.tasks[row].arena
                observation = {key: values[row] for key, values in self._current.items()}
                picture = _overhead(arena, self._rovers.renderer)
                self._record(seed, arena.time_s, observation, actions[row], picture, arena.pose[:2])
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step of all arenas, after recording how episodes ended."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._steps += 1
        self._steps[dones] = 0
        for row in np.flatnonzero(dones):
            info = infos[row]
            if info["seed"] in self.episodes:
                # A pressed beacon is elsewhere at once, and the next episode has begun: only the touch is of the end.
                last, touch_n = self.episodes[info["seed"]].moments[-1], info["terminal_observation"]["touch"]
                observation = {"image": last.image, "touch": touch_n}
                self._record(info["seed"], info["time_s"], observation, last.action, last.arena, last.position_m)
                self.episodes[info["seed"]].success = bool(info["is_success"])
        return self._keep(observations), rewards, dones, infos

    def _keep(self, observations: VecEnvObs) -> VecEnvObs:
        assert isinstance(observations, dict)
        self._current = observations
        return observations

    def _record(
        self,
        seed: int,
        time_s: float,
        observation: dict[str, np.ndarray],
        action: np.ndarray,
        arena: np.ndarray,
        position_m: tuple[float, float],
    ) -> None:
        read = {
            key: np.zeros_like(values) if key == self._blanked else values.copy() for key, values in observation.items()
        }
        moment = Moment(time_s, read["image"], read["touch"], np.array(action), arena, position_m)
        self.episodes[seed].moments.append(moment)


def draw_episodes(
    episodes: Mapping[int, RecordedEpisode],
    driver: str,
    circumstances: str,
    file: Path,
    unread: Collection[str] = (),
) -> None:
    """Draw episodes one after the other in real time, with a title that says who drives and how.

    Parameters
    ----------
    episodes
        By their seeds.
    driver
        Who drives.
    circumstances
        How.
    file
        The GIF.
    unread
        Observations that the driver does not take, which is said beneath them.
    """
    pictures: list[Image.Image] = []
    durations_ms: list[int] = []
    for seed, episode in episodes.items():
        painter = _Painter(episode, f"{driver}, seed {seed}", circumstances, unread)
        pictures += [painter.paint(index) for index in range(len(episode.moments))]
        durations_ms += [FRAME_MS] * (len(episode.moments) - 1) + [LAST_FRAME_MS]
    save_animation(pictures, durations_ms, file, colours=COLOURS, most_bytes=MAX_GIF_BYTES)


class _Painter:
    """Paints the moments of one episode."""

    def __init__(self, episode: RecordedEpisode, title: str, subtitle: str, unread: Collection[str]) -> None:
        self._episode = episode
        self._unread = unread
        self._title = title
        self._subtitle = subtitle
        self._end_s = episode.moments[-1].time_s
        self._title_font = font(17, bold=True)
        self._text_font = font(13)
        self._small_font = font(11)
        self._smooth_font = font(11 * _SMOOTH, bold=True)

    def paint(self, index: int) -> Image.Image:
        """Paint one moment; what came before it is in the charts and in the rover's path."""
        moment = self._episode.moments[index]
        ended = index == len(self._episode.moments) - 1
        picture = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        draw.text((GAP_PX, 27), self._title, TEXT, self._title_font, anchor="ls")
        title_end = GAP_PX + draw.textlength(self._title, self._title_font)
        draw.text((title_end + 12, 27), self._subtitle, FAINT, self._text_font, anchor="ls")
        end, colour = f"{moment.time_s:.1f} s", TEXT
        if ended:
            outcome = "beacon pressed" if self._episode.success else "beacon not pressed"
            end, colour = f"{outcome} after {end}", PRESSED if self._episode.success else FAINT
        draw.text((WIDTH_PX - GAP_PX, 27), end, colour, self._title_font, anchor="rs")
        left = GAP_PX
        for caption, panel in (
            ("camera, 64 × 64 pixels", self._camera(moment)),
            ("touch of the bumper, N", self._touch(moment)),
            ("commands", self._charts(index)),
            ("arena from above", self._arena(index)),
        ):
            draw.text((left, 42), caption, FAINT, self._text_font)
            picture.paste(panel, (left, TOP_PX))
            left += panel.width + GAP_PX
        for key, left in (("image", GAP_PX), ("touch", 2 * GAP_PX + PANEL_PX)):
            if key in self._unread:
                draw.text((left, TOP_PX + PANEL_PX + 9), "not read by this policy", FAINT, self._small_font)
        if "touch" not in self._unread:
            self._force_scale(draw, 2 * GAP_PX + PANEL_PX)
        arena_left = WIDTH_PX - GAP_PX - PANEL_PX
        draw.text((arena_left, TOP_PX + PANEL_PX + 9), "turquoise: unseen by the camera", FAINT, self._small_font)
        if ended and self._episode.success:
            bottom_right = (arena_left + PANEL_PX + 1, TOP_PX + PANEL_PX + 1)
            draw.rectangle(((arena_left - 2, TOP_PX - 2), bottom_right), outline=PRESSED, width=2)
        return picture

    def _camera(self, moment: Moment) -> Image.Image:
        # Enlarged pixels stay pixels: this is all that the policy gets to see.
        return Image.fromarray(moment.image).resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)

    def _touch(self, moment: Moment) -> Image.Image:
        """Paint the rover with its nose up in a ring of cells, cell 0 front left and then counter-clockwise."""
        size, cell_deg = PANEL_PX * _SMOOTH, 360.0 / ROVER.touch_cells
        panel = Image.new("RGB", (size, size), BACKGROUND)
        draw = ImageDraw.Draw(panel)
        middle, outer, inner = size / 2, 0.48 * size, 0.31 * size
        for cell, force_n in enumerate(moment.touch_n):
            # Pillow counts degrees clockwise from the right.
            start = -90.0 - cell_deg * (cell + 1)
            draw.pieslice(_disc((middle, middle), outer), start + 1.0, start + cell_deg - 1.0, _force_colour(force_n))
        draw.ellipse(_disc((middle, middle), inner + 0.012 * size), BACKGROUND)
        draw.ellipse(_disc((middle, middle), inner), _GROUND)
        nose = [
            (middle, middle - 0.19 * size),
            *((middle + side * 0.07 * size, middle - 0.07 * size) for side in (-1, 1)),
        ]
        draw.polygon(nose, FAINT)
        for cell, force_n in enumerate(moment.touch_n):
            if force_n > 0.0:
                bearing_rad = np.radians(cell_deg * (cell + 0.5))
                reach = (inner + outer) / 2
                place = (middle - reach * np.sin(bearing_rad), middle - reach * np.cos(bearing_rad))
                draw.text(place, f"{force_n:.1f}", BACKGROUND, self._smooth_font, anchor="mm")
        draw.text((middle, middle + 0.08 * size), "front", FAINT, font(12 * _SMOOTH), anchor="mm")
        return panel.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)

    def _force_scale(self, draw: ImageDraw.ImageDraw, left: int) -> None:
        """Paint which colour means how much."""
        top = TOP_PX + PANEL_PX + 11
        start, width = left + 34, PANEL_PX - 80
        draw.text((left + 26, top - 2), "0", FAINT, self._small_font, anchor="ra")
        for step in range(_FORCE_STEPS):
            edges = [start + width * end // _FORCE_STEPS for end in (step, step + 1)]
            colour = _force_colour(ROVER.touch_limit_n * step / (_FORCE_STEPS - 1))
            draw.rectangle((edges[0], top, edges[1] - 1, top + 9), colour)
        draw.text((start + width + 8, top - 2), f"{ROVER.touch_limit_n:g} N", FAINT, self._small_font)

    def _charts(self, index: int) -> Image.Image:
        """Paint both commands over the time of the episode."""
        panel = Image.new("RGB", (CHART_PX, PANEL_PX + BOTTOM_PX), BACKGROUND)
        draw = ImageDraw.Draw(panel)
        speed_m_s, turn_rad_s = self._episode.moments[index].action
        limits_m_s = (-ROVER.max_reverse_m_s, ROVER.max_linear_m_s)
        limits_rad_s = (-ROVER.max_angular_rad_s, ROVER.max_angular_rad_s)
        half = PANEL_PX // 2
        self._chart(draw, 0, index, 0, limits_m_s, f"forward {speed_m_s:+.2f} m/s", _FORWARD)
        self._chart(draw, half + 4, index, 1, limits_rad_s, f"turn {turn_rad_s:+.2f} rad/s", _TURN)
        draw.text((0, PANEL_PX + 9), "0 s", FAINT, self._small_font)
        draw.text((CHART_PX - 1, PANEL_PX + 9), f"{self._end_s:.1f} s", FAINT, self._small_font, anchor="ra")
        return panel

    def _chart(
        self,
        draw: ImageDraw.ImageDraw,
        top: int,
        index: int,
        component: int,
        limits: tuple[float, float],
        label: str,
        colour: Colour,
    ) -> None:
        """Paint one component of the commands as bars, up to a moment."""
        height = PANEL_PX // 2 - 4
        draw.rectangle((0, top, CHART_PX - 1, top + height - 1), _GROUND)
        bars_top, bars_height = top + 22, height - 26

        def y(value: float) -> float:
            return bars_top + bars_height * (limits[1] - value) / (limits[1] - limits[0])

        moments = self._episode.moments[: index + 1]
        edges = [*(moment.time_s for moment in moments), min(moments[-1].time_s + FRAME_MS / 1e3, self._end_s)]
        for moment, start_s, end_s in zip(moments, edges, edges[1:], strict=False):
            left, right = (round((CHART_PX - 1) * time_s / self._end_s) for time_s in (start_s, end_s))
            low, high = sorted((y(0.0), y(float(moment.action[component]))))
            draw.rectangle((left, round(low), max(right - 1, left), round(high)), colour)
        draw.line((0, round(y(0.0)), CHART_PX - 1, round(y(0.0))), _LINE)
        draw.text((6, top + 4), label.replace("-", "−"), colour, self._text_font)
        limits_in_words = f"{limits[0]:g} to {limits[1]:g}".replace("-", "−")
        draw.text((CHART_PX - 6, top + 5), limits_in_words, FAINT, self._small_font, anchor="ra")

    def _arena(self, index: int) -> Image.Image:
        """Paint the arena with the rover marked, and its path."""
        panel = Image.fromarray(self._episode.moments[index].arena)
        marks = Image.new("RGBA", (_OVERHEAD_PX, _OVERHEAD_PX))
        draw = ImageDraw.Draw(marks)
        path = [_overhead_px(moment.position_m) for moment in self._episode.moments[: index + 1]]
        if len(path) > 1:
            draw.line(path, _PATH, width=3, joint="curve")
        draw.ellipse(_disc(path[-1], _PX_PER_M * ROVER.radius_m + 3), outline=_PATH, width=3)
        marks = marks.resize(panel.size, Image.Resampling.LANCZOS)
        panel.paste(marks, mask=marks)
        return panel


def _overhead(arena: Arena, renderer: Renderer) -> np.ndarray:
    """Draw an arena from above, turquoise what the camera does not see: RGB uint8 [192, 192, 3]."""
    picture = Image.fromarray(renderer.overhead(arena, _OVERHEAD_PX))
    draw = ImageDraw.Draw(picture)
    for placed in arena.layout.obstacles:
        if arena.is_transparent(placed.obstacle):
            reach_px = _PX_PER_M * placed.obstacle.radius_m
            points_px = [_overhead_px(point) for point in placed.outline_m]
            draw.line(points_px, _UNSEEN, width=round(2 * reach_px))
            for point_px in points_px:
                draw.ellipse(_disc(point_px, reach_px), _UNSEEN)
    return np.asarray(picture.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS))


def _overhead_px(position_m: tuple[float, float]) -> tuple[float, float]:
    """Say where a place in the arena is in the picture from above."""
    return _OVERHEAD_PX / 2 + _PX_PER_M * position_m[0], _OVERHEAD_PX / 2 - _PX_PER_M * position_m[1]


def _disc(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    """Return the box around a disc, as Pillow wants it."""
    return centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius


def _force_colour(force_n: float) -> Colour:
    """Return the colour of the step of force that is nearest: few colours, so that all are in the palette."""
    step = round(float(np.clip(force_n / ROVER.touch_limit_n, 0.0, 1.0)) * (_FORCE_STEPS - 1))
    place = step / (_FORCE_STEPS - 1) * (len(_FORCES) - 1)
    red, green, blue = (round(float(np.interp(place, range(len(_FORCES)), channel))) for channel in _FORCES.T)
    return red, green, blue
