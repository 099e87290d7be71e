"""OGBench's own oracles: logs in play style, and a solver that chains them towards a task's goal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import mujoco
import numpy as np

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveInt, Share, checked
from skillmeta.data.episodes import Recording, single_episode
from skillmeta.errors import ConfigError
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskFamily
from skillmeta.tasks.ogbench import CENTER, DRAWER_OPEN, SCALE, OGBenchEnv, make_scene, numpy_seeded, toggle, unplaced

OVER_DRAWER = np.array([0.33, -0.24, 0.066])  # where a cube is let go above an open drawer
STACKED = {
    "cube-double": (0.0, 0.25),
    "cube-triple": (0.05, 0.35),
}  # chance of a goal on top of a cube: an episode's is between
NOISE_SHAPE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # of the noisy style: moves, yaw, opening


@checked
class Config:
    """As OGBench's `generate_manipspace.py`: random goals one after another, noise on the oracles. Its episodes have 1001 steps,
    its noisy ones random_actions 0.1 (cubes, scene) or 0.2 (puzzles)."""

    steps: PositiveInt = 100_000  # environment steps to record
    episode_steps: PositiveInt = 500  # of each episode
    style: Literal["play", "noisy"] = (
        "play"  # planned motions with smooth noise, or reactive ones with independent noise
    )
    noise: NonNegativeFloat = 0.1  # play: of the plan; noisy: of the action, at most; each episode draws its own level
    random_actions: Share = 0.0  # chance of a uniformly random action at each step
    seed: NonNegativeInt = 0  # of goals and noise


def oracles(scene: Any, style: str, noise: float) -> dict[str, Any]:
    """OGBench's oracle for each kind of thing: cube, button, drawer, window."""
    from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
    from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
    from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    fist = (
        {"gripper_always_closed": True} if hasattr(scene, "_num_rows") else {}
    )  # puzzles are played with a closed gripper
    if style == "play":
        return {
            "cube": CubePlanOracle(env=scene, noise=noise),
            "button": ButtonPlanOracle(env=scene, noise=noise, **fist),
            "drawer": DrawerPlanOracle(env=scene, noise=noise),
            "window": WindowPlanOracle(env=scene, noise=noise),
        }
    return {
        "cube": CubeMarkovOracle(env=scene, min_norm=0.4),
        "button": ButtonMarkovOracle(env=scene, min_norm=0.4, **fist),
        "drawer": DrawerMarkovOracle(env=scene, min_norm=0.4),
        "window": WindowMarkovOracle(env=scene, min_norm=0.4),
    }


def collect(
    family: TaskFamily, config: Config, progress: Callable[[int], None] = lambda steps: None
) -> Iterator[Recording]:
    """Episodes of `episode_steps` steps in which one random goal follows another, until there are `config.steps` steps."""
    env = family.make_env()
    if not isinstance(env, OGBenchEnv):
        raise ConfigError("collector: ogbench knows the family ogbench only")
    scene = make_scene(env.config.scene, mode="data_collection")
    generator = Seeds(config.seed).stream("collector").numpy()
    acting, recorded = oracles(scene, config.style, config.noise), 0
    while recorded < config.steps:
        stack = generator.uniform(*STACKED.get(env.config.scene, (0.0, 0.0)))
        recording = record(scene, acting, config, stack, generator)
        if env.config.scene == "scene" and lost(recording.episode.observation[0]):
            continue
        recorded += recording.episode.reward.size
        progress(recorded)
        yield recording


def record(
    scene: Any, acting: dict[str, Any], config: Config, stack: float, generator: np.random.Generator
) -> Recording:
    """One episode. It has no task, so it has no rewards and no success; what became of each target is reported beside it."""
    level = config.noise * generator.random() if config.style == "noisy" else 0.0
    observation, info = scene.reset(seed=int(generator.integers(2**31)))
    observations, actions, outcomes = [observation], list[np.ndarray](), list[tuple[str, bool]]()
    oracle = begun(acting, observation, info, generator)
    reached = False
    while len(actions) < config.episode_steps:
        action = oracle.select_action(observation, info) + level * NOISE_SHAPE * generator.normal(size=5)
        if generator.random() < config.random_actions:
            action = generator.uniform(-1, 1, 5)
        action = np.clip(action, -1, 1).astype(np.float32)
        observation, _, _, _, info = scene.step(action)
        observations.append(observation)
        actions.append(action)
        reached = reached or bool(info["success"])
        if oracle.done:
            outcomes.append((kind_of(info), reached))
            observation, info = scene.set_new_target(p_stack=stack)
            oracle, reached = begun(acting, observation, info, generator), False
    seen, rewards = np.stack(observations).astype(np.float32), np.zeros(len(actions), np.float32)
    return Recording(single_episode(seen, np.stack(actions), rewards), tuple(outcomes))


def lost(observations: np.ndarray) -> bool:
    """Whether the scene's cube went out of sight, right of the table or left of it and not in the drawer: OGBench leaves such
    episodes out. `observations` [T, 40]."""
    _, y, z = (observations[:, 19:22] / SCALE + CENTER).T
    beside = (y <= -0.3) & ((z < 0.06) | (z > 0.08))
    return bool((y >= 0.29).any() or beside.any())


def kind_of(info: dict[str, Any]) -> str:
    """What the scene's present target is a target of; scenes of one kind of thing do not say."""
    kind = info.get("privileged/target_task")
    return str(kind) if kind is not None else ("cube" if "privileged/target_block" in info else "button")


def begun(acting: dict[str, Any], observation: np.ndarray, info: dict[str, Any], generator: np.random.Generator) -> Any:
    """The oracle of the present target, at its beginning, where it draws from numpy's global generator."""
    oracle = acting[kind_of(info)]
    with numpy_seeded(generator):
        oracle.reset(observation, info)
    return oracle


class Solver:
    """Brings one thing after another to its goal: what stands in the way of a locked or shut thing first."""

    def __init__(self, env: OGBenchEnv, generator: np.random.Generator):
        self.env, self.generator = env, generator
        self.oracles = oracles(env.inner, "noisy", 0.0)
        self.oracle: Any = None
        self.target: dict[str, Any] = {}
        self.plan: list[int] | None = None  # presses that are left of a puzzle

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        if self.oracle is None or self.oracle.done:
            what, self.target = self.next_target()
            self.oracle = self.oracles[what]
            with numpy_seeded(self.generator):
                self.oracle.reset(observation, self.info())
        return np.asarray(self.oracle.select_action(observation, self.info()), np.float32)

    def info(self) -> dict[str, Any]:
        """What the oracles look at: the scene, and the target that we have chosen."""
        info = {**self.env.info, **self.target}
        if "privileged/target_button" in info:
            button = info["privileged/target_button"]
            info["privileged/target_button_top_pos"] = self.env.inner.data.site_xpos[
                self.env.inner._button_site_ids[button]
            ].copy()
        return info

    def next_target(self) -> tuple[str, dict[str, Any]]:
        """Which oracle, and the target in its terms."""
        scene, goal = self.env.inner, self.env.task.goal
        missing = unplaced(scene)
        if self.env.config.scene.startswith("puzzle"):
            return self.press(self.presses())
        cubes = [int(name[5:]) for name in missing if name.startswith("cube")]
        if self.env.config.scene.startswith("cube"):
            if not cubes:
                return self.carry(0, np.array(scene.data.joint("object_joint_0").qpos[:3]))
            return self.carry(*self.lowest(cubes))
        drawer, window = (float(scene.data.joint(f"{name}_slide").qpos[0]) for name in ("drawer", "window"))
        inside = scene._is_in_drawer(scene.data.joint("object_joint_0").qpos[:3])
        into = (
            bool(cubes) and goal.cubes[0][1] < -0.2 and not inside
        )  # behind the drawer's front; shutting it brings it there
        opened = drawer < DRAWER_OPEN + 0.04
        if into and opened:
            return self.carry(0, OVER_DRAWER)
        if into or ("drawer" in missing):
            if scene._cur_button_states[0] == 0:
                return self.press(0)
            return self.slide("drawer", DRAWER_OPEN if into else goal.drawer)
        if "window" in missing:
            return self.press(1) if scene._cur_button_states[1] == 0 else self.slide("window", goal.window)
        if cubes:
            return self.carry(*self.lowest(cubes))
        buttons = [int(name[7:]) for name in missing if name.startswith("button")]
        return self.press(buttons[0] if buttons else 0, bool(buttons))

    def lowest(self, cubes: list[int]) -> tuple[int, np.ndarray]:
        """Of the cubes out of place the one whose goal is lowest: a tower is built from below."""
        places = {i: np.array(self.env.inner.data.mocap_pos[self.env.inner._cube_target_mocap_ids[i]]) for i in cubes}
        first = min(cubes, key=lambda i: float(places[i][2]))
        return first, places[first]

    def carry(self, cube: int, place: np.ndarray) -> tuple[str, dict[str, Any]]:
        target = {"privileged/target_block": cube, "privileged/target_block_pos": np.asarray(place),
                  "privileged/target_block_yaw": np.zeros(1)}  # fmt: skip
        return "cube", target

    def press(self, button: int, change: bool = True) -> tuple[str, dict[str, Any]]:
        now = int(self.env.inner._cur_button_states[button])
        return "button", {
            "privileged/target_button": button,
            "privileged/target_button_state": 1 - now if change else now,
        }

    def slide(self, what: str, to: float) -> tuple[str, dict[str, Any]]:
        """Drawer or window, to a place along its rail."""
        scene = self.env.inner
        site = scene._drawer_target_site_id if what == "drawer" else scene._window_target_site_id
        scene.model.site(f"{what}_handle_center_target").pos[1 if what == "drawer" else 0] = (
            to  # a mark, nothing physical
        )
        mujoco.mj_kinematics(scene.model, scene.data)
        handle = scene.data.site_xpos[site].copy()
        return what, {f"privileged/target_{what}_pos": np.array([to]), f"privileged/target_{what}_handle_pos": handle}

    def presses(self) -> int:
        """The next button of a puzzle: a shortest solution over GF(2), found by trying all first rows."""
        scene, goal = self.env.inner, np.array(self.env.task.goal.buttons)
        rows, columns = (int(n) for n in self.env.config.scene.partition("-")[2].split("x"))
        left = (np.asarray(scene._cur_button_states) + goal).reshape(rows, columns) % 2
        best = solve_lights(left)
        return best[0] if best else 0


def solve_lights(lights: np.ndarray) -> list[int]:
    """The fewest presses that turn all lights [rows, columns] off; empty if there is none, or nothing to do."""
    rows, columns = lights.shape
    best: list[int] | None = None
    for first in range(2**columns):  # the first row's presses decide all others: what is lit is turned off from below
        state, presses = lights.copy(), list[int]()
        for row in range(rows):
            for column in range(columns):
                wanted = (first >> column) & 1 if row == 0 else int(state[row - 1, column])
                if wanted:
                    presses.append(row * columns + column)
                    toggle(state, presses[-1])
        if not state.any() and (best is None or len(presses) < len(best)):
            best = presses
    return best or []
