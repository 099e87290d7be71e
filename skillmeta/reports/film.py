"""A short video of one episode: the simulator's own pictures, or the path over the family's map where it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from skillmeta.errors import UserError
from skillmeta.tasks.base import TaskFamily


class Filmed(gymnasium.Wrapper):
    """Keeps a picture of every few steps, at most `most` of them, evenly spread over the horizon."""

    def __init__(self, env: gymnasium.Env, family: TaskFamily, most: int = 120):
        super().__init__(env)
        self.family, self.every = family, max(1, -(-family.max_episode_steps // most))
        self.frames: list[np.ndarray] = []
        self.path: list[np.ndarray] = []
        self.canvas: Any = None  # the map, where the environment makes no pictures

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.frames, self.path, self.steps = [], [], 0
        self.canvas = None
        self._keep(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps % self.every == 0 or terminated or truncated:
            self._keep(observation)
        return observation, reward, terminated, truncated, info

    def _keep(self, observation: Any) -> None:
        frame = None if self.canvas else self._rendered()
        if frame is None:
            frame = self._drawn(observation)
        self.frames.append(frame)

    def _rendered(self) -> np.ndarray | None:
        """The environment's own picture, if it makes any."""
        try:
            frame = self.env.unwrapped.render()
        except NotImplementedError:
            return None
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(f"{self.family.name}: cannot be filmed: {error}") from None
        return frame if isinstance(frame, np.ndarray) and frame.ndim == 3 else None

    def _drawn(self, observation: Any) -> np.ndarray:
        """The way so far on the family's map. Raises UserError for a family without one."""
        if self.family.draw is None or self.family.positions is None:
            raise UserError(f"{self.family.name}: there is nothing to film; it has neither pictures nor a map")
        if self.canvas is None:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            figure = Figure(figsize=(3.2, 3.2), dpi=100, layout="constrained")
            self.canvas = FigureCanvasAgg(figure)
            axes = figure.subplots()
            self.family.draw(axes, getattr(self.env.unwrapped, "task", None))
            axes.set_aspect("equal")
            axes.set_axis_off()
            (self.line,) = axes.plot([], [], color="#0072b2", linewidth=1.5)
            (self.here,) = axes.plot([], [], marker="o", color="#0072b2", markersize=6)
        self.path.append(np.asarray(self.family.positions(np.asarray(observation)[None]))[0])
        way = np.stack(self.path)
        self.line.set_data(way[:, 0], way[:, 1])
        self.here.set_data(way[-1:, 0], way[-1:, 1])
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[:, :, :3].copy()


def save_webp(frames: list[np.ndarray], path: Path, milliseconds: int = 50) -> None:
    """An animated WebP that repeats. Raises UserError for a path that cannot be written."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        images[0].save(
            path, format="WEBP", save_all=True, append_images=images[1:], duration=milliseconds, loop=0, quality=70
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from None
