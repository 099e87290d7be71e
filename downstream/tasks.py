"""Task families: `python -m downstream.tasks` lists them; with the name of one, what it is, its tasks, a film of an episode."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skillmeta.cli import ConfigParser, add_trust, run_program
from skillmeta.errors import ConfigError, UserError

NEEDS = {  # packages that families cannot be made without
    **dict.fromkeys(("ant_maze", "kitchen", "maze", "maze_unseen"), ("gymnasium_robotics",)),
    "metaworld": ("metaworld",),
    "ogbench": ("ogbench", "dm_control"),
}
EPILOG = """examples:
  skillmeta tasks                                  every family that has a preset
  skillmeta tasks cheetah_vel                      what it is, and the first tasks of each split
  skillmeta tasks maze --draw 5 --split any        five fresh tasks
  skillmeta tasks maze --video maze.webp           its expert in the first test task
  skillmeta tasks maze options.layout_seed=1       another world"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = ConfigParser(
        prog="skillmeta tasks", description="List task families, draw tasks, film an episode.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("preset", nargs="?", help="a preset of configs/tasks, or a YAML file like one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, e.g. options.max_episode_steps=50")
    parser.add_argument("--split", help="which tasks (default: the preset's, usually test)")
    parser.add_argument("--draw", type=int, metavar="N", help="draw N tasks of the split")
    parser.add_argument("--seed", type=int, default=0, help="of draws and of the film (default: 0)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="film an episode, an animated .webp")
    parser.add_argument("--task", type=int, default=0, help="the film's task in the split (default: 0)")
    parser.add_argument("--agent", metavar="RUN", help="a finished run that acts (default: the expert, else at random)")
    add_trust(parser, "the run of --agent")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.draw is not None and arguments.draw < 1:
        raise ConfigError(f"--draw is {arguments.draw}; it must be at least 1")
    if arguments.preset is None:
        return list_presets()

    from skillmeta.config import build, load
    from skillmeta.tasks.base import TaskConfig

    overrides = [change.removeprefix("task.") for change in arguments.overrides]  # as other commands say it
    config = build(TaskConfig, load(arguments.preset, overrides, "tasks"), "task")
    config = replace(config, split=arguments.split or config.split, index=arguments.task)
    if arguments.video is not None:
        return film(config, arguments)
    if arguments.draw is not None:
        return draw(config, arguments.draw, arguments.seed)
    return describe(config, arguments.split)


def list_presets() -> int:
    """Every preset, from what was written of it (configs/tasks/listed.json): making some of them takes seconds."""
    import json

    from skillmeta.config import config_dir, list_configs, load

    print(f"{'preset':<26} {'observed':>8} {'actions':>8} {'steps':>8}  {'expert':<7} tasks in each split")
    listed = json.loads((config_dir() / "tasks" / "listed.json").read_text())
    for preset in list_configs("tasks"):
        node, row = load(preset, folder="tasks"), listed.get(preset)
        if row is None or row["config"] != digest(node) or any(map(is_missing, NEEDS.get(str(node.get("family")), ()))):
            row = looked_at(node)
        if isinstance(row, str):
            print(f"{preset:<26} not here: {row}")
            continue
        splits = ", ".join(f"{name} {count}" for name, count in row["splits"].items())
        expert = "yes" if row["expert"] else "no"
        print(
            f"{preset:<26} {row['observed']:>8} {row['actions']:>8} {row['steps']:>8}  {expert:<7} {splits}", flush=True
        )
    print("\nmore of one: skillmeta tasks PRESET; any Gymnasium id: a file like configs/tasks/pendulum.yaml")
    return 0


def is_missing(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is None


def digest(node: object) -> str:
    """What a preset says, as a short checksum: one that was changed is looked at anew."""
    import hashlib

    from skillmeta.config import dump_yaml

    return hashlib.sha256(dump_yaml(node).encode()).hexdigest()[:16]


def looked_at(node: object) -> dict[str, Any] | str:
    """The line of a preset whose family is made; a sentence where it cannot be."""
    from skillmeta.config import build
    from skillmeta.tasks.base import TaskConfig, make_family

    try:
        family = make_family(build(TaskConfig, node, "task"))
        env = family.make_env()
    except UserError as error:
        return str(error)
    row = row_of(family, env, node)
    env.close()
    return row


def row_of(family: Any, env: Any, node: object) -> dict[str, Any]:
    """What is listed of a preset."""
    observed, actions = dimensions(env)
    return {
        "observed": observed,
        "actions": actions,
        "steps": family.max_episode_steps,
        "expert": family.expert is not None,
        "splits": {name: len(tasks) for name, tasks in family.splits.items()},
        "config": digest(node),
    }


def dimensions(env: Any) -> tuple[str, str]:
    """How many numbers are seen and acted with; discrete actions as e.g. 1 of 5."""
    from gymnasium.spaces import Box, Discrete

    seen, acts = env.observation_space, env.action_space
    observed = str(seen.shape[0]) if isinstance(seen, Box) else str(seen)
    return observed, f"1 of {acts.n}" if isinstance(acts, Discrete) else str(acts.shape[0])


def describe(config: object, only: str | None) -> int:
    import textwrap

    from skillmeta.envs.probe import examined
    from skillmeta.tasks.base import ANY, make_family, task_id, to_json

    family = examined(make_family(config), config)  # type: ignore[arg-type]
    splits = [*family.splits, *([ANY] if family.draw_task is not None else [])]
    if only is not None and only not in splits:
        raise UserError(f"{family.name}: there is no split {only!r}; choose one of {', '.join(splits)}")
    env = family.make_env()
    observed, acted = dimensions(env)
    env.close()
    steps = family.max_episode_steps
    length = f"at most {steps} steps" if steps else "as many steps as the environment says"
    print(f"{family.name}, version {family.version}: {observed} observed, {acted} actions, {length}")
    print(textwrap.fill(family.definition, 100))
    for split, tasks in family.splits.items():
        if only not in (None, split):
            continue
        use = ", to train on" if split in family.training_splits else ""
        if shared := family.shared(split):
            use += f"; but {len(shared)} are held out for tests too, or too near to those, so meta-training refuses it"
        print(f"\n{split}: {len(tasks)} tasks{use}")
        for task in tasks[:3]:
            facts = "".join(f"  {name} {value}" for name, value in family.facts(task).items())
            print(f"  {task_id(task)}  {cut(to_json(task))}{facts}")
    if family.draw_task is not None and only in (None, ANY):
        margin = f", {family.margin:g} or more from held-out tasks" if family.margin else ""
        print(f"\nany: fresh draws, to train on{margin}")
    return 0


def cut(text: str, width: int = 100) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def draw(config: object, count: int, seed: int) -> int:
    from skillmeta.seeds import Seeds
    from skillmeta.tasks.base import make_family, to_json

    family = make_family(config)  # type: ignore[arg-type]
    generator = Seeds(seed).stream("shown_tasks").numpy()
    for _ in range(count):
        print(to_json(family.sample(generator, config.split)))  # type: ignore[attr-defined]
    return 0


def film(config: object, arguments: argparse.Namespace) -> int:
    from skillmeta.collect.episodes import episode
    from skillmeta.envs.make import ExpertEnvs, make_envs
    from skillmeta.evaluation.actors import RandomActor
    from skillmeta.programs.train import load_trained
    from skillmeta.reports.film import Filmed, save_webp
    from skillmeta.seeds import Seeds
    from skillmeta.skills.vae import SkillModel
    from skillmeta.tasks.base import TaskConfig, chosen_task, make_family
    from skillmeta.types import Actor, Envs

    assert isinstance(config, TaskConfig)
    if config.family == "gym":  # Gymnasium's environments must know when they are made that they will be rendered
        kwargs = {**config.options.get("kwargs", {}), "render_mode": "rgb_array"}
        config = replace(config, options={**config.options, "kwargs": kwargs})
    family = make_family(config)
    task = chosen_task(family, config)
    films: list[Filmed] = []

    def filmed() -> Filmed:
        films.append(Filmed(family.make_env(), family))
        return films[-1]

    watched = replace(family, make_env=filmed, native=None)
    acting: Envs
    if arguments.agent:
        made: list[Envs] = []

        def make(skills: SkillModel | None, sees_task: bool) -> Envs:
            made.append(make_envs(watched, 1, skills, sees_task))
            return made[0]

        agent: Actor[Any] = load_trained(arguments.agent, make, arguments.trust).actor
        acting, who = made[0], arguments.agent
    elif family.expert is not None:
        acting, who = ExpertEnvs(watched, 1), "its expert"
        agent = RandomActor(acting.spec.action_bound)  # whose actions the expert's environments ignore
    else:
        acting, who = make_envs(watched, 1), "at random"
        agent = RandomActor(acting.spec.action_bound)
    generator = Seeds(arguments.seed).stream("acting").torch()
    done, _ = episode(agent, acting, agent.begin(1, generator), [arguments.seed], generator, tasks=[task])
    save_webp(films[0].frames, arguments.video)
    print(
        f"{family.name}, {config.split} task {config.index}, {who}: {int(done.lengths[0])} steps, return {done.returns[0]:.3g}, "
        f"{'success' if done.succeeded[0] else 'no success'}; written: {arguments.video}"
    )
    acting.close()
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
