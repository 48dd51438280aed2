# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Draw an episode as an animation: camera image, touch readings, commands, and the arena from above."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from policy_node.report.animation import BACKGROUND, FAINT, PRESSED, TEXT, draw_header, font, save_animation
from policy_node_rover.arena.description import ROVER
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.environment import CONTROL_PERIOD_S
from policy_node_rover.mujoco.rendering import OVERHEAD_HALF_WIDTH_M, Renderer
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv

STEPS_PER_FRAME = 2
FRAME_MS = round(1e3 * STEPS_PER_FRAME * CONTROL_PERIOD_S)
LAST_FRAME_MS = 1500
# More episodes would make the file too large.
MAX_EPISODES = 3
COLOURS = 256
MAX_GIF_BYTES = 3_000_000

PANEL_PX = 192
CHART_PX = 216
GAP_PX = 16
TOP_PX = 68
BOTTOM_PX = 40
WIDTH_PX = 3 * PANEL_PX + CHART_PX + 5 * GAP_PX
HEIGHT_PX = TOP_PX + PANEL_PX + BOTTOM_PX

# Shapes are drawn this many times larger and scaled down for smooth edges.
_SMOOTH = 4
_OVERHEAD_PX = 2 * PANEL_PX
_PX_PER_M = _OVERHEAD_PX / (2 * OVERHEAD_HALF_WIDTH_M)
_GROUND = (34, 37, 44)
_LINE = (72, 77, 88)
# Name, unit, colour, minimum and maximum of each command.
_COMMANDS = (
    ("forward", "m/s", (88, 166, 255), -ROVER.max_reverse_m_s, ROVER.max_linear_m_s),
    ("turn", "rad/s", (240, 176, 80), -ROVER.max_angular_rad_s, ROVER.max_angular_rad_s),
)
_PATH = (255, 255, 255)
_TRANSPARENT = (84, 212, 200)
# Colours from zero to the largest force.
_FORCES = np.array([(52, 57, 67), (248, 204, 92), (240, 128, 60), (226, 54, 70)], float)
_FORCE_STEPS = 16


class EpisodeFrame(NamedTuple):
    """One moment of an episode."""

    time_s: float
    image: np.ndarray  # as the driver reads it, uint8 [64, 64, 3]
    touch_n: np.ndarray  # as the driver reads it, newtons, float32 [8]
    action: np.ndarray  # forward speed in m/s, turn rate in rad/s
    arena: np.ndarray  # the arena from above, uint8 [192, 192, 3]
    position_m: tuple[float, float]


@dataclass(eq=False)
class RecordedEpisode:
    """The frames of an episode; `success` is None until it ends."""

    frames: list[EpisodeFrame] = field(default_factory=list)
    success: bool | None = None


class EpisodeRecorder(VecEnvWrapper):
    """Record the episodes of some seeds, by seed in `episodes`; all arenas must be in this process.

    `blanked` is the observation key that the driver reads as zeros.
    """

    def __init__(self, arenas: RoverArenaVecEnv, seeds: Collection[int], blanked: str | None = None) -> None:
        super().__init__(arenas)
        self._arenas = arenas
        self._blanked = blanked
        self._observations: Any = {}
        self._steps = np.zeros(arenas.num_envs, int)
        self.episodes = {seed: RecordedEpisode() for seed in seeds}

    def reset(self) -> VecEnvObs:
        """Start an episode in every arena."""
        self._observations = self.venv.reset()
        return self._observations

    def step_async(self, actions: np.ndarray) -> None:
        """Record observations and actions, float32 [arenas, 2], and start the step."""
        for row, seed in enumerate(self._arenas.running_seeds):
            if seed in self.episodes and self._steps[row] % STEPS_PER_FRAME == 0:
                arena = self._arenas.tasks[row].arena
                image, touch_n = (self._read(key, self._observations[key][row]) for key in ("image", "touch"))
                picture = _draw_overhead(arena, self._arenas.renderer)
                frame = EpisodeFrame(arena.time_s, image, touch_n, actions[row].copy(), picture, arena.pose[:2])
                self.episodes[seed].frames.append(frame)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step of all arenas; record the end of episodes."""
        self._observations, rewards, dones, infos = self.venv.step_wait()
        self._steps += 1
        self._steps[dones] = 0
        for info in (infos[row] for row in np.flatnonzero(dones)):
            episode = self.episodes.get(info["seed"])
            if episode:
                # The arena shows the next episode already: only the touch is from the end of this one.
                touch_n = self._read("touch", info["terminal_observation"]["touch"])
                episode.frames.append(episode.frames[-1]._replace(time_s=info["time_s"], touch_n=touch_n))
                episode.success = bool(info["is_success"])
        return self._observations, rewards, dones, infos

    def _read(self, key: str, values: np.ndarray) -> np.ndarray:
        return np.zeros_like(values) if key == self._blanked else values.copy()


def draw_episodes(
    episodes: Mapping[int, RecordedEpisode], driver: str, conditions: str, file: Path, unused_keys: Collection[str] = ()
) -> None:
    """Draw episodes one after the other in real time; driver and conditions are for the title.

    A caption tells which observation keys the driver does not use.
    """
    pictures: list[Image.Image] = []
    durations_ms: list[int] = []
    for seed, episode in episodes.items():
        painter = _Painter(episode, f"{driver}, seed {seed}", conditions, unused_keys)
        pictures += [painter.paint(index) for index in range(len(episode.frames))]
        durations_ms += [FRAME_MS] * (len(episode.frames) - 1) + [LAST_FRAME_MS]
    save_animation(pictures, durations_ms, file, colours=COLOURS, most_bytes=MAX_GIF_BYTES)


class _Painter:
    """Paint the frames of one episode."""

    def __init__(self, episode: RecordedEpisode, title: str, subtitle: str, unused_keys: Collection[str]) -> None:
        self._episode = episode
        self._unused_keys = unused_keys
        self._title = title
        self._subtitle = subtitle
        self._end_s = episode.frames[-1].time_s
        self._text_font = font(13)
        self._small_font = font(11)

    def paint(self, index: int) -> Image.Image:
        """Paint a frame, with charts and path up to its time."""
        frame = self._episode.frames[index]
        picture = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        status, colour = f"{frame.time_s:.1f} s", TEXT
        is_last = index == len(self._episode.frames) - 1
        pressed = is_last and bool(self._episode.success)
        if is_last:
            status = f"beacon {'' if pressed else 'not '}pressed after {status}"
            colour = PRESSED if pressed else FAINT
        draw_header(draw, GAP_PX, WIDTH_PX - GAP_PX, self._title, self._subtitle, status, colour)
        touch_px = 2 * GAP_PX + PANEL_PX
        charts_px = touch_px + PANEL_PX + GAP_PX
        arena_px = charts_px + CHART_PX + GAP_PX
        # Enlarged camera pixels stay sharp.
        camera = Image.fromarray(frame.image).resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)
        for left, caption, panel in (
            (GAP_PX, "camera, 64 × 64 pixels", camera),
            (touch_px, "touch of the bumper, N", _touch_panel(frame.touch_n)),
            (charts_px, "commands", self._charts(index)),
            (arena_px, "arena from above", self._arena(index)),
        ):
            draw.text((left, 42), caption, FAINT, self._text_font)
            picture.paste(panel, (left, TOP_PX))
        bottom_px = TOP_PX + PANEL_PX + 9
        for key, left in (("image", GAP_PX), ("touch", touch_px)):
            if key in self._unused_keys:
                draw.text((left, bottom_px), "not read by this policy", FAINT, self._small_font)
        if "touch" not in self._unused_keys:
            self._force_scale(draw, touch_px)
        draw.text((arena_px, bottom_px), "turquoise: unseen by the camera", FAINT, self._small_font)
        if pressed:
            corners = ((arena_px - 2, TOP_PX - 2), (arena_px + PANEL_PX + 1, TOP_PX + PANEL_PX + 1))
            draw.rectangle(corners, outline=PRESSED, width=2)
        return picture

    def _force_scale(self, draw: ImageDraw.ImageDraw, left: int) -> None:
        """Paint the colour scale of the forces."""
        top = TOP_PX + PANEL_PX + 11
        start, width = left + 34, PANEL_PX - 80
        draw.text((left + 26, top - 2), "0", FAINT, self._small_font, anchor="ra")
        for step in range(_FORCE_STEPS):
            edges = [start + width * end // _FORCE_STEPS for end in (step, step + 1)]
            colour = _force_colour(ROVER.touch_limit_n * step / (_FORCE_STEPS - 1))
            draw.rectangle((edges[0], top, edges[1] - 1, top + 9), colour)
        draw.text((start + width + 8, top - 2), f"{ROVER.touch_limit_n:g} N", FAINT, self._small_font)

    def _charts(self, index: int) -> Image.Image:
        """Paint both commands as bars over the time of the episode."""
        panel = Image.new("RGB", (CHART_PX, PANEL_PX + BOTTOM_PX), BACKGROUND)
        draw = ImageDraw.Draw(panel)
        frames = self._episode.frames[: index + 1]
        edges_s = [*(frame.time_s for frame in frames), min(frames[-1].time_s + FRAME_MS / 1e3, self._end_s)]
        edges = [round((CHART_PX - 1) * time_s / self._end_s) for time_s in edges_s]
        height = PANEL_PX // 2 - 4
        for component, (name, unit, colour, lowest, highest) in enumerate(_COMMANDS):
            top = component * (PANEL_PX // 2 + 4)
            values = [float(frame.action[component]) for frame in frames]
            zero, *ends = (
                round(top + 22 + (height - 26) * (highest - value) / (highest - lowest)) for value in (0.0, *values)
            )
            draw.rectangle((0, top, CHART_PX - 1, top + height - 1), _GROUND)
            for end, left, right in zip(ends, edges, edges[1:], strict=False):
                draw.rectangle((left, min(zero, end), max(right - 1, left), max(zero, end)), colour)
            draw.line((0, zero, CHART_PX - 1, zero), _LINE)
            label = f"{name} {values[-1]:+.2f} {unit}".replace("-", "−")
            draw.text((6, top + 4), label, colour, self._text_font)
            range_text = f"{lowest:g} to {highest:g}".replace("-", "−")
            draw.text((CHART_PX - 6, top + 5), range_text, FAINT, self._small_font, anchor="ra")
        draw.text((0, PANEL_PX + 9), "0 s", FAINT, self._small_font)
        draw.text((CHART_PX - 1, PANEL_PX + 9), f"{self._end_s:.1f} s", FAINT, self._small_font, anchor="ra")
        return panel

    def _arena(self, index: int) -> Image.Image:
        """Paint the arena with the rover and its path."""
        panel = Image.fromarray(self._episode.frames[index].arena)
        marks = Image.new("RGBA", (_OVERHEAD_PX, _OVERHEAD_PX))
        draw = ImageDraw.Draw(marks)
        path = [_overhead_px(frame.position_m) for frame in self._episode.frames[: index + 1]]
        if len(path) > 1:
            draw.line(path, _PATH, width=3, joint="curve")
        draw.ellipse(_disc(path[-1], _PX_PER_M * ROVER.radius_m + 3), outline=_PATH, width=3)
        marks = marks.resize(panel.size, Image.Resampling.LANCZOS)
        panel.paste(marks, mask=marks)
        return panel


def _touch_panel(touch_n: np.ndarray) -> Image.Image:
    """Paint the rover, front up, in a ring of touch cells, counter-clockwise from front left."""
    size, cell_deg = PANEL_PX * _SMOOTH, 360.0 / ROVER.touch_cells
    panel = Image.new("RGB", (size, size), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    middle, outer, inner = size / 2, 0.48 * size, 0.31 * size
    for cell, force_n in enumerate(touch_n):
        # Pillow counts degrees clockwise from the right.
        start = -90.0 - cell_deg * (cell + 1)
        draw.pieslice(_disc((middle, middle), outer), start + 1.0, start + cell_deg - 1.0, _force_colour(force_n))
    draw.ellipse(_disc((middle, middle), inner + 0.012 * size), BACKGROUND)
    draw.ellipse(_disc((middle, middle), inner), _GROUND)
    nose = [(0.0, -0.19), (-0.07, -0.07), (0.07, -0.07)]
    draw.polygon([(middle + x * size, middle + y * size) for x, y in nose], FAINT)
    for cell in np.flatnonzero(touch_n > 0.0).tolist():
        bearing_rad = np.radians(cell_deg * (cell + 0.5))
        reach = (inner + outer) / 2
        place = (middle - reach * np.sin(bearing_rad), middle - reach * np.cos(bearing_rad))
        draw.text(place, f"{touch_n[cell]:.1f}", BACKGROUND, font(11 * _SMOOTH, bold=True), anchor="mm")
    draw.text((middle, middle + 0.08 * size), "front", FAINT, font(12 * _SMOOTH), anchor="mm")
    return panel.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)


def _draw_overhead(arena: Arena, renderer: Renderer) -> np.ndarray:
    """Draw an arena from above, transparent obstacles in turquoise: RGB uint8 [192, 192, 3]."""
    picture = Image.fromarray(renderer.overhead(arena, _OVERHEAD_PX))
    draw = ImageDraw.Draw(picture)
    for placed in arena.layout.obstacles:
        if arena.is_transparent(placed.obstacle):
            radius_px = _PX_PER_M * placed.obstacle.radius_m
            points_px = [_overhead_px(point) for point in placed.outline_m]
            draw.line(points_px, _TRANSPARENT, width=round(2 * radius_px))
            for point_px in points_px:
                draw.ellipse(_disc(point_px, radius_px), _TRANSPARENT)
    return np.asarray(picture.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS))


def _overhead_px(position_m: tuple[float, float]) -> tuple[float, float]:
    """Convert a position in the arena to pixels of the picture from above."""
    return _OVERHEAD_PX / 2 + _PX_PER_M * position_m[0], _OVERHEAD_PX / 2 - _PX_PER_M * position_m[1]


def _disc(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    """Return the bounding box of a disc."""
    return centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius


def _force_colour(force_n: float) -> tuple[int, int, int]:
    """Return the colour of a force, rounded to a few steps so that all are in the palette."""
    step = round(float(np.clip(force_n / ROVER.touch_limit_n, 0.0, 1.0)) * (_FORCE_STEPS - 1))
    place = step / (_FORCE_STEPS - 1) * (len(_FORCES) - 1)
    red, green, blue = (round(float(np.interp(place, range(len(_FORCES)), channel))) for channel in _FORCES.T)
    return red, green, blue
