"""Pictures of a MuJoCo scene, fast in software: no shadows, no reflections, no multisampling."""

from __future__ import annotations

import atexit
from typing import Any

import mujoco
import numpy as np

from skillmeta.errors import UserError


def frame(
    cache: dict[str, Any],
    model: mujoco.MjModel,
    data: mujoco.MjData,
    width: int = 320,
    height: int = 240,
    camera: Any = -1,
) -> np.ndarray:
    """The scene as uint8 [height, width, 3].

    Args:
        cache: an empty dict that the caller keeps; the renderer is made once per model and size and lives in it.
        camera: a camera's name or number, an MjvCamera, or -1 for the free one.

    Raises:
        UserError: there is no OpenGL to draw with.
    """
    if cache.get("for") != (id(model), width, height):
        close(cache)
        model.vis.quality.shadowsize = 0  # a kitchen at 1.6 frames a second becomes one at 36
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        try:
            renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # each graphics library fails in its own way
            raise UserError(
                f"pictures of a simulator need OpenGL ({type(error).__name__}: {error}); set MUJOCO_GL=egl or osmesa before the "
                "command (Debian: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri, or libosmesa6)"
            ) from None
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
        atexit.register(close, cache)  # before the graphics library itself is shut down
        cache.update({"for": (id(model), width, height), "renderer": renderer})
    renderer = cache["renderer"]
    renderer.update_scene(data, camera)
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0
    result: np.ndarray = renderer.render().copy()
    return result


def close(cache: dict[str, Any]) -> None:
    """Free the renderer, if there is one."""
    if "renderer" in cache:
        cache.pop("renderer").close()
    cache.clear()
