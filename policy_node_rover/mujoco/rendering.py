# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Render the image of the rover's camera, and the arena from above.

Two renderers give the same images: `EglRenderer` uses OpenGL without a display, `RaycastRenderer` needs no OpenGL.
Surfaces have flat colours under one directional light, without shadows or reflections.
"""

from __future__ import annotations

import atexit
import copy
import functools
import logging
import os
import subprocess
import sys
import weakref
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import cv2
import mujoco
import numpy as np

from policy_node_rover.arena.conditions import Appearance
from policy_node_rover.arena.description import ARENA, FLOOR_HALF_SIZE_M, ROVER
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.model import CAMERA_GROUP_HIDDEN, ROVER_GROUP, ArenaModel

logger = logging.getLogger(__name__)

KINDS = ("auto", "egl", "raycast")
_OVERHEAD_HEIGHT_M = 12.0
OVERHEAD_HALF_WIDTH_M = ARENA.half_size_m + 0.1
_MAX_SIZE_PX = 640
_FLOOR_BOX_HALF_SIZE_M = (FLOOR_HALF_SIZE_M, FLOOR_HALF_SIZE_M, 0.05)


class RendererError(RuntimeError):
    """The renderer is not available on this machine."""


class Renderer(ABC):
    """Interface of the renderers; one renderer serves any number of arenas, from one thread."""

    kind: str

    def camera(self, arena: Arena, image: np.ndarray | None = None) -> np.ndarray:
        """Render the rover's camera, without transparent obstacles: RGB uint8 [64, 64, 3], into `image` if given."""
        if image is None:
            image = np.empty((ROVER.camera_size_px, ROVER.camera_size_px, 3), np.uint8)
        np.copyto(image, self._camera_image(arena))
        return image

    @abstractmethod
    def _camera_image(self, arena: Arena) -> np.ndarray:
        """Render the rover's camera: RGB uint8 [64, 64, 3], valid until the next call."""

    @abstractmethod
    def overhead(self, arena: Arena, size_px: int = 160) -> np.ndarray:
        """Render the arena from above, transparent obstacles tinted: RGB uint8 [size, size, 3], x right, y up."""

    @abstractmethod
    def close(self) -> None:
        """Free the resources; another call does nothing."""


def make_renderer(model: ArenaModel, kind: str = "auto") -> Renderer:
    """Make a renderer: ``"egl"``, ``"raycast"``, or ``"auto"`` for EGL if it works, else ray casting.

    RendererError is raised when EGL was requested and does not work.
    """
    if kind not in KINDS:
        raise ValueError(f"renderer: {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if kind == "raycast":
        return RaycastRenderer(model)
    reason = egl_failure()
    if not reason:
        try:
            renderer = EglRenderer(model)
            logger.info("rendering through EGL")
            return renderer
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    if kind == "egl":
        raise RendererError(f"renderer: EGL does not work here ({reason}); install libegl1, or use 'raycast'")
    logger.warning("EGL does not work here (%s): rendering by ray casting", reason)
    return RaycastRenderer(model)


@functools.cache
def egl_failure() -> str:
    """Return why EGL does not work, or nothing; a subprocess tries it, as a broken driver can end the process."""
    program = "from mujoco.egl import GLContext; context = GLContext(64, 64); context.make_current(); context.free()"
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    try:
        trial = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if trial.returncode == 0:
        return ""
    lines = trial.stderr.strip().splitlines()
    return lines[-1] if lines else f"status {trial.returncode}"


def _free_opengl(context: Any, render_context: mujoco.MjrContext) -> None:
    """Free an OpenGL context and its resources."""
    # Resources are freed by numbers, which are valid only in their own context.
    context.make_current()
    render_context.free()
    context.free()


class EglRenderer(Renderer):
    """Render with OpenGL through EGL, on the GPU if there is one, else in software.

    In software each vertex costs time. The camera's image therefore omits geoms outside the view and the sky, which
    replaces black pixels afterwards (no surface is black), and draws the floor as a box, as MuJoCo tessellates planes.
    The image is bit-identical to that of the whole scene.
    """

    kind = "egl"

    def __init__(self, model: ArenaModel) -> None:
        from mujoco.egl import GLContext

        self._context = GLContext(_MAX_SIZE_PX, _MAX_SIZE_PX)
        self._context.make_current()
        self._model = model
        self._render_context = mujoco.MjrContext(model.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        # Runs at the end of this object or of the process. The exit handler of `finalize` would run too late, after
        # that of MuJoCo, which ends EGL: handlers run in reverse order of registration.
        self._free = weakref.finalize(self, _free_opengl, self._context, self._render_context)
        self._free.atexit = False
        atexit.register(self._free)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._render_context)
        if self._render_context.currentBuffer != mujoco.mjtFramebuffer.mjFB_OFFSCREEN:
            raise RendererError("OpenGL provides no offscreen buffer")
        self._scene = mujoco.MjvScene(model.model, maxgeom=100)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_FOG):
            self._scene.flags[flag] = False
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera_id
        self._camera_option = _shown_groups(0)
        # Orthographic, x to the right and y up.
        self._overhead_camera = camera = mujoco.MjvCamera()
        camera.type, camera.orthographic = mujoco.mjtCamera.mjCAMERA_FREE, 1
        camera.lookat[:] = 0.0, 0.0, 0.0
        camera.distance, camera.azimuth, camera.elevation = _OVERHEAD_HEIGHT_M, 90.0, -90.0
        self._overhead_option = _shown_groups(0, CAMERA_GROUP_HIDDEN, ROVER_GROUP)
        self._drawn_geoms = np.flatnonzero(model.model.geom_group == 0)
        self._scene_geoms = self._scene.geoms
        self._floor_place = self._drawn_geoms.tolist().index(model.model.geom("floor").id)
        # Planes are infinite.
        is_plane = model.model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        self._half_sizes_m = np.where(is_plane[:, None], 1e3, model.model.geom_aabb[:, 3:])[:, :, None]
        half_view = np.radians(ROVER.camera_field_of_view_deg) / 2
        self._view_sides = np.array([[side * np.cos(half_view), 0.0, -np.sin(half_view)] for side in (-1.0, 1.0)])
        self._pixels = np.empty((ROVER.camera_size_px, ROVER.camera_size_px, 3), np.uint8)
        self._black_is_sky = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
        self._black_is_sky[0, 0] = model.model.tex_data[:3]

    def _camera_image(self, arena: Arena) -> np.ndarray:
        self._update(arena, self._camera, self._camera_option, sky=False)
        floor = self._scene_geoms[self._floor_place]
        floor.type = mujoco.mjtGeom.mjGEOM_BOX
        floor.size[:] = _FLOOR_BOX_HALF_SIZE_M
        floor.pos[2] = -_FLOOR_BOX_HALF_SIZE_M[2]
        if arena.appearance is not None:
            self._apply(arena.appearance)
        for place in np.flatnonzero(self._is_outside_view(arena)[self._drawn_geoms]).tolist():
            self._scene_geoms[place].type = mujoco.mjtGeom.mjGEOM_NONE
        self._render(self._pixels)
        return cv2.LUT(self._pixels, self._black_is_sky)[::-1]

    def overhead(self, arena: Arena, size_px: int = 160) -> np.ndarray:
        """Render the arena from above with the nominal appearance, see `Renderer`."""
        if not 0 < size_px <= _MAX_SIZE_PX:
            raise ValueError(f"size_px: found {size_px}, allowed is 1 to {_MAX_SIZE_PX}")
        self._update(arena, self._overhead_camera, self._overhead_option, sky=True)
        image = np.empty((size_px, size_px, 3), np.uint8)
        self._render(image)
        return np.ascontiguousarray(image[::-1])

    def close(self) -> None:
        """Free the OpenGL context."""
        self._free()

    def _render(self, image: np.ndarray) -> None:
        """Render the scene into an image, bottom row first."""
        viewport = mujoco.MjrRect(0, 0, len(image), len(image))
        mujoco.mjr_render(viewport, self._scene, self._render_context)
        mujoco.mjr_readPixels(image, None, viewport, self._render_context)

    def _update(self, arena: Arena, camera: mujoco.MjvCamera, option: mujoco.MjvOption, *, sky: bool) -> None:
        """Update the scene."""
        self._context.make_current()
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = sky
        mujoco.mjv_updateScene(
            self._model.model, arena.data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )

    def _apply(self, appearance: Appearance) -> None:
        """Apply an appearance to the scene, and hide transparent obstacles."""
        light = self._scene.lights[0]
        light.dir[:] = appearance.light_direction
        light.ambient[:] = appearance.ambient
        light.diffuse[:] = appearance.diffuse
        for place, geom in enumerate(self._drawn_geoms.tolist()):
            drawn = self._scene_geoms[place]
            if self._model.geom_names[geom] in appearance.transparent:
                drawn.type = mujoco.mjtGeom.mjGEOM_NONE
            else:
                drawn.rgba[:3] = appearance.colours[self._model.geom_materials[geom]]
        self._black_is_sky[0, 0] = np.rint(np.array(appearance.sky) * 255.0)

    def _is_outside_view(self, arena: Arena) -> np.ndarray:
        """Return which geoms are left or right of the camera's view, bool [geoms]."""
        data, camera = arena.data, self._model.camera_id
        # Inward normals of the view's sides; the bounding box of a geom is projected onto them.
        normals = self._view_sides @ data.cam_xmat[camera].reshape(3, 3).T
        centres_m = (data.geom_xpos - data.cam_xpos[camera]) @ normals.T
        reaches_m = np.abs(normals @ data.geom_xmat.reshape(-1, 3, 3)) @ self._half_sizes_m
        return (centres_m + reaches_m[:, :, 0] < 0.0).any(axis=1)


def _group_mask(*groups: int) -> np.ndarray:
    """Return which groups of geoms are shown, uint8 [groups]."""
    mask = np.zeros(mujoco.mjNGROUP, np.uint8)
    mask[list(groups)] = 1
    return mask


def _shown_groups(*groups: int) -> mujoco.MjvOption:
    """Return the option that shows only the geoms of some groups."""
    option = mujoco.MjvOption()
    option.geomgroup[:] = _group_mask(*groups)
    return option


# Groups that rays hit: from the camera, from above, and from above behind what is tinted.
_CAMERA_GROUPS = _group_mask(0)
_OVERHEAD_GROUPS = _group_mask(0, CAMERA_GROUP_HIDDEN, ROVER_GROUP)
_OPAQUE_GROUPS = _group_mask(0, ROVER_GROUP)


class _Shading(NamedTuple):
    colours: np.ndarray  # of the geoms, and of the sky, [geoms + 1, 3] in 0 to 1
    ambient: np.ndarray  # [3]
    diffuse: np.ndarray  # [3]
    to_light: np.ndarray  # direction towards the light, [3]


class RaycastRenderer(Renderer):
    """Render by casting one ray per pixel with MuJoCo; needs no OpenGL."""

    kind = "raycast"

    def __init__(self, model: ArenaModel) -> None:
        physics = model.model
        self._model = model
        # The groups of geoms that rays hit are part of the model.
        self._geoms = copy.copy(physics)
        rgba = physics.geom_rgba.copy()
        has_material = physics.geom_matid >= 0
        rgba[has_material] = physics.mat_rgba[physics.geom_matid[has_material]]
        sky = physics.tex_data[:3].astype(float) / 255.0
        to_light = -physics.light_dir[0] / np.linalg.norm(physics.light_dir[0])
        # The last row, index -1, is for rays that hit nothing.
        self._opacity = np.append(rgba[:, 3], 1.0)
        ambient, diffuse = physics.light_ambient[0].astype(float), physics.light_diffuse[0].astype(float)
        self._shading = _Shading(np.vstack([rgba[:, :3], sky]), ambient, diffuse, to_light)
        half_width = np.tan(np.radians(ROVER.camera_field_of_view_deg) / 2)
        self._camera_rays = self._pixel_grid(ROVER.camera_size_px, half_width)

    def _camera_image(self, arena: Arena) -> np.ndarray:
        axes = arena.data.cam_xmat[self._model.camera_id].reshape(3, 3)
        rays = self._camera_rays @ axes.T
        eye = arena.data.cam_xpos[self._model.camera_id]
        shading = self._shading
        if arena.appearance is not None:
            shading = self._shading_of(arena.appearance)
            self._hide(arena.appearance.transparent)
        colours = self._cast(arena, eye, rays, _CAMERA_GROUPS, shading)[0]
        self._hide(frozenset())
        return self._image(colours, ROVER.camera_size_px)

    def overhead(self, arena: Arena, size_px: int = 160) -> np.ndarray:
        """Render the arena from above with the nominal appearance, see `Renderer`."""
        # From far above, the rays are nearly parallel.
        height_m = 100.0 * _OVERHEAD_HEIGHT_M
        rays = self._pixel_grid(size_px, OVERHEAD_HALF_WIDTH_M / height_m)
        eye = np.array([0.0, 0.0, height_m])
        colours, opacity = self._cast(arena, eye, rays, _OVERHEAD_GROUPS, self._shading)
        tinted = opacity[:, 0] < 1.0
        if tinted.any():
            behind, _ = self._cast(arena, eye, rays[tinted], _OPAQUE_GROUPS, self._shading)
            colours[tinted] = opacity[tinted] * colours[tinted] + (1.0 - opacity[tinted]) * behind
        return self._image(colours, size_px)

    def close(self) -> None:
        """Do nothing, as there is nothing to free."""

    @staticmethod
    def _pixel_grid(size_px: int, half_width: float) -> np.ndarray:
        """Return unit rays through the pixel centres in the camera frame (x right, y up, z back), [pixels, 3]."""
        centres = (np.arange(size_px) + 0.5) / size_px * 2 * half_width - half_width
        right, down = np.meshgrid(centres, centres)
        rays = np.stack([right.ravel(), -down.ravel(), -np.ones(size_px * size_px)], axis=1)
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def _shading_of(self, appearance: Appearance) -> _Shading:
        """Return colours and light of an appearance."""
        colours = self._shading.colours.copy()
        for geom, material in self._model.geom_materials.items():
            colours[geom] = appearance.colours[material]
        colours[-1] = appearance.sky
        to_light = -np.array(appearance.light_direction)
        to_light /= np.linalg.norm(to_light)
        return _Shading(colours, np.full(3, appearance.ambient), np.full(3, appearance.diffuse), to_light)

    def _hide(self, names: frozenset[str]) -> None:
        """Let the camera's rays pass through these geoms only."""
        self._geoms.geom_group[:] = self._model.model.geom_group
        for name in names:
            self._geoms.geom_group[self._geoms.geom(name).id] = CAMERA_GROUP_HIDDEN

    def _cast(
        self, arena: Arena, eye: np.ndarray, rays: np.ndarray, groups: np.ndarray, shading: _Shading
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return colours [pixels, 3] in 0 to 1 and opacities [pixels, 1] where the rays [pixels, 3] hit first."""
        count = len(rays)
        geoms, distances, normals = np.full(count, -1, np.int32), np.empty(count), np.zeros(count * 3)
        mujoco.mj_multiRay(
            self._geoms, arena.data, eye, rays.ravel(), groups, True, -1, geoms, distances, normals, count, 1e6
        )
        facing = np.maximum(normals.reshape(count, 3) @ shading.to_light, 0.0)
        light = shading.ambient + facing[:, None] * shading.diffuse
        light[geoms < 0] = 1.0
        return shading.colours[geoms] * light, self._opacity[geoms][:, None]

    @staticmethod
    def _image(colours: np.ndarray, size_px: int) -> np.ndarray:
        """Convert colours [pixels, 3] in 0 to 1 to an image uint8 [size, size, 3]."""
        return (np.clip(colours, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).reshape(size_px, size_px, 3)
