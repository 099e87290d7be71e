"""Ant: walk in a hidden direction, to a hidden place, or with a leg that is not what it was.

Sources: PEARL, Rakelly et al. 2019 (arXiv:1903.08254), with its fixed tasks; MAML, Finn et al. 2017 (forward and back); MIER,
Mendonca et al. 2020 (arXiv:2006.07178; directions beyond those trained on); MetaCURE, Zhang et al. 2021 (sparse goals).
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import mujoco
import numpy as np

from skillmeta.config import NonNegativeInt, PositiveFloat, PositiveInt, Range, checked
from skillmeta.tasks.base import TaskFamily, draw_tasks, validation_generator
from skillmeta.tasks.locomotion import (
    ANT,
    LocomotionEnv,
    Motion,
    ant_all,
    ant_pose,
    ant_pose_and_place,
    assets,
    heading,
    legacy_draws,
)
from skillmeta.tasks.point import covered

LEGS = ("front_left_leg", "front_right_leg", "back_leg", "right_back_leg")


@checked
class Config:
    """PEARL's ant-dir by default; configs/tasks has the others."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    goal: Literal["direction", "forward_back", "place", "leg"] = "direction"  # leg: walk forward with a changed leg
    train_range: Range = field(default_factory=lambda: [0.0, 1.0])  # of directions, in full turns
    test_range: Range | None = None  # another range to test on; null: the same
    radius: PositiveFloat = 3.0  # of the disc, or of the half circle, that places lie in or on
    half_circle: bool = False  # places on the half circle instead of in the disc (MetaCURE)
    sparse: bool = False  # reward 1 - distance within `success_radius` and 0 outside, instead of minus the L1 distance
    success_radius: PositiveFloat = 0.5  # metres from a place that count as success
    contact_cost: bool = True  # false: as MuJoCo 2.0 had it, whose contact forces were always 0
    contact_observation: bool = False  # see the contact forces too, 78 numbers (PEARL's ant-goal)
    leg_range: Range = field(default_factory=lambda: [0.5, 1.5])  # factors of a leg's mass and of its length
    max_episode_steps: PositiveInt = 200  # steps of an episode
    train_tasks: PositiveInt = 150  # tasks of the split `train`
    validation_tasks: PositiveInt = 30  # tasks of the split `validation`
    test_tasks: PositiveInt = 30  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 1337  # that the tasks are drawn by


@dataclass(frozen=True)
class Heading:
    """Radians, 0 along x."""

    angle: float


@dataclass(frozen=True)
class Place:
    """Metres from the start."""

    x: float
    y: float


@dataclass(frozen=True)
class Leg:
    """One of four legs, its mass and length in parts of what they were."""

    leg: int
    mass: float
    length: float


def contact_cost(motion: Motion, config: Config) -> float:
    """0.5e-3 times the squared contact forces, each clipped to [-1, 1]."""
    if not config.contact_cost:
        return 0.0
    return float(0.5e-3 * np.square(np.clip(motion.data.cfrc_ext, -1, 1)).sum())


def heading_reward(motion: Motion, task: Heading, config: Config) -> tuple[float, bool]:
    """PEARL: v along the heading - 0.5 |a|^2 - contact cost + 1. Success: 1 m/s along it."""
    speed = float(motion.velocity @ heading(task.angle))
    return speed - 0.5 * float(motion.action @ motion.action) - contact_cost(motion, config) + 1.0, speed >= 1.0


def place_reward(motion: Motion, task: Place, config: Config) -> tuple[float, bool]:
    """PEARL: -|place - goal|_1 - 0.1 |a|^2 - contact cost. Success: within the radius of it."""
    gap = motion.place - (task.x, task.y)
    distance = float(np.hypot(*gap))
    near = distance <= config.success_radius
    gain = (1.0 - distance if near else 0.0) if config.sparse else -float(np.abs(gap).sum())
    return gain - 0.1 * float(motion.action @ motion.action) - contact_cost(motion, config), near


def leg_reward(motion: Motion, task: Leg, config: Config) -> tuple[float, bool]:
    return heading_reward(motion, Heading(0.0), config)


def changed_leg(task: Leg) -> mujoco.MjModel:
    """The ant with one leg longer or shorter, heavier or lighter: its model's text changed, then compiled.

    Density makes up for the length, so that `mass` alone says how heavy the leg's capsules are.
    """
    tree = ElementTree.parse(assets("ant.xml"))
    leg = next(body for body in tree.iter("body") if body.get("name") == LEGS[task.leg])
    plain = mujoco.MjModel.from_xml_path(assets("ant.xml"))
    for body in leg.iter("body"):
        if body is not leg:
            body.set("pos", scaled(body.get("pos", ""), task.length))
    for geom in leg.iter("geom"):
        geom.set("fromto", scaled(geom.get("fromto", ""), task.length))
        number = plain.geom(geom.get("name")).bodyid[0]
        geom.set("mass", repr(float(plain.body_mass[number]) * task.mass))  # each body of a leg has one capsule
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(tree.getroot(), encoding="unicode"))


def scaled(numbers: str, factor: float) -> str:
    return " ".join(repr(float(number) * factor) for number in numbers.split())


def places(config: Config) -> list[Place]:
    """PEARL's code: legacy draws from seed 1337, angles first; on the half circle evenly spaced and shuffled."""
    count = config.train_tasks + config.test_tasks
    legacy = np.random.RandomState(config.tasks_seed)
    if config.half_circle:
        angles, radii = np.linspace(0, np.pi, count), np.full(count, config.radius)
        legacy.shuffle(angles)
    else:
        angles = legacy.random_sample(count) * 2 * np.pi
        radii = config.radius * np.sqrt(legacy.random_sample(count))
    return [place(r, a) for r, a in zip(radii, angles, strict=True)]


def place(radius: float, angle: float) -> Place:
    return Place(float(radius * np.cos(angle)), float(radius * np.sin(angle)))


def draw_place(config: Config, generator: np.random.Generator) -> Place:
    """Uniform in the disc, or on the half circle."""
    if config.half_circle:
        return place(config.radius, generator.uniform(0, np.pi))
    angle, area = generator.uniform(0, 2 * np.pi), generator.uniform(0, 1)
    return place(config.radius * np.sqrt(area), angle)


def headings(config: Config) -> tuple[list[Heading], list[Heading]]:
    counts = (config.train_tasks, config.test_tasks)
    train, test = legacy_draws(config.tasks_seed, config.train_range, config.test_range, *counts)
    return [Heading(float(2 * np.pi * t)) for t in train], [Heading(float(2 * np.pi * t)) for t in test]


def legs(config: Config) -> list[Leg]:
    generator = np.random.default_rng(config.tasks_seed)
    return [draw_leg(config, generator) for _ in range(config.train_tasks + config.test_tasks)]


def draw_leg(config: Config, generator: np.random.Generator) -> Leg:
    mass, length = generator.uniform(config.leg_range[0], config.leg_range[1], 2)
    return Leg(int(generator.integers(len(LEGS))), float(mass), float(length))


def family(config: Config) -> TaskFamily:
    """The families that share the robot and differ in what is hidden."""
    train: Sequence[Any]
    test: Sequence[Any]
    draw_task: Callable[[np.random.Generator], Any] | None = None
    reward: Any = heading_reward
    if config.goal == "direction":
        train, test = headings(config)
        low, high = config.train_range
        beyond = f" (tests: {config.test_range[0]:g} to {config.test_range[1]:g})" if config.test_range else ""
        what = f"Walk in a hidden direction, turns {low:g} to {high:g}{beyond}, each task an independent draw."

        def draw_task(generator: np.random.Generator) -> Heading:
            return Heading(float(2 * np.pi * generator.uniform(low, high)))

    elif config.goal == "forward_back":
        train = test = (Heading(0.0), Heading(float(np.pi)))
        what = (
            "Walk forward or back; there are no other tasks, so the validation and test tasks are the training tasks."
        )
    elif config.goal == "place":
        every = places(config)
        train, test = every[: config.train_tasks], every[config.train_tasks :]
        shape = "on a half circle" if config.half_circle else "in a disc"
        drawn = (
            "training and test places evenly spaced, others uniform"
            if config.half_circle
            else "uniform, independent draws"
        )
        reward = place_reward
        what = f"Walk to a hidden place {shape} of radius {config.radius:g} m ({drawn})."

        def draw_task(generator: np.random.Generator) -> Place:
            return draw_place(config, generator)

    else:
        every_leg = legs(config)
        train, test = every_leg[: config.train_tasks], every_leg[config.train_tasks :]
        low, high = config.leg_range
        what = (
            f"Walk forward; one hidden leg has its mass and its length times U({low:g}, {high:g}), independent draws."
        )
        reward = leg_reward

        def draw_task(generator: np.random.Generator) -> Leg:
            return draw_leg(config, generator)

    validation = train  # of a benchmark that has two tasks
    if draw_task is not None:
        validation = draw_tasks(draw_task, validation_generator(config.tasks_seed), config.validation_tasks)
    contact = " - 0.0005 |clipped contact forces|^2" if config.contact_cost else ""
    if config.goal == "place":
        gain = f"1 - distance within {config.success_radius:g}, else 0" if config.sparse else "-|place - goal|_1"
        paid, success = f"{gain} - 0.1 |a|^2{contact}", f"within {config.success_radius:g} m of it"
        ends, observe = False, (ant_all if config.contact_observation else ant_pose_and_place)
    else:
        paid, success = f"velocity in the direction - 0.5 |a|^2{contact} + 1", "1 m/s in the direction"
        ends, observe = True, ant_pose
    robot = replace(ANT, observe=observe, contact_forces=config.contact_cost or config.contact_observation)

    def make_env() -> LocomotionEnv:
        body = changed_leg if config.goal == "leg" else None
        return LocomotionEnv(
            robot,
            lambda motion, task: reward(motion, task, config),
            train[0],
            config.max_episode_steps,
            ends,
            body=body,
        )

    seen = {ant_pose: "pose and velocities", ant_pose_and_place: "place, pose and velocities",
            ant_all: "place, pose, velocities and contact forces"}[observe]  # fmt: skip
    placed = config.goal == "place"
    early = "or until the torso leaves heights 0.2 to 1 m" if ends else "never an early end"
    return TaskFamily(
        name="ant",
        version=1,
        definition=(
            f"{what} Reward: {paid}, velocity over the 0.05 s of a step. "
            f"{config.max_episode_steps} steps, {early}. Seen: {seen}. Success: "
            f"{success}. Gymnasium's Ant-v5 model; after PEARL, MAML, MIER and MetaCURE."
        ),
        max_episode_steps=config.max_episode_steps,
        splits={"train": tuple(train), "validation": tuple(validation), "test": tuple(test)},
        make_env=make_env,
        draw_task=draw_task,
        same_tasks=config.goal == "forward_back",
        features=features,
        positions=(lambda observations: observations[..., :2]) if placed else None,
        coverage=(lambda positions: covered(positions, 1.25 * config.radius)) if placed else None,
        draw=(lambda axes, task: draw(axes, task, config)) if placed else None,
    )


def features(task: Heading | Place | Leg) -> np.ndarray:
    """What an oracle sees, float32: the direction's cosine and sine, the place, or which leg and its two factors."""
    if isinstance(task, Heading):
        return heading(task.angle).astype(np.float32)
    if isinstance(task, Place):
        return np.array([task.x, task.y], np.float32)
    which = np.eye(len(LEGS))[task.leg]
    return np.array([*which, task.mass, task.length], np.float32)


def draw(axes: Any, task: Place | None, config: Config) -> None:
    limit = 1.25 * config.radius
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    if task is not None:
        axes.plot(task.x, task.y, marker="*", color="#d62728", markersize=11)
