"""Adapt a trained agent to one task and keep what it came to know: the program behind `skillmeta adapt`.

An adapted agent is its parameters, which stay as they are in its run, and a belief: a value, so it can be saved.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from skillmeta.collect.failures import EnvironmentConfig, shown
from skillmeta.collect.trials import trial
from skillmeta.config import build, dump_yaml, read_yaml, to_plain
from skillmeta.envs.make import make_envs
from skillmeta.envs.probe import examined
from skillmeta.errors import EnvironmentFailed, UserError
from skillmeta.evaluation.adaptation import exploration_notes
from skillmeta.evaluation.adapted import AdaptedAgent, pack, unpack
from skillmeta.programs.train import load_trained, run_input
from skillmeta.run import watch
from skillmeta.run.checkpoint import load_state, save_state
from skillmeta.run.files import locked_folder, write_whole
from skillmeta.run.identity import Identity
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import Task, TaskConfig, chosen_task, make_family, task_id
from skillmeta.trust import ENVIRONMENT, check_links, check_modules, modules_of_run
from skillmeta.types import Actor, Envs, Trials

ADAPTED = "adapted.yaml"  # what was adapted to what; the last file that is written


def loaded(run: str | Path, config: TaskConfig, trust: bool) -> tuple[Actor[Any], Envs, Task]:
    """The agent of a run, environments for one of its rounds, and the task. `trust` is of the run, as for `load_trained`."""
    family = examined(make_family(config), config)
    trained = load_trained(run, lambda skills, sees_task: make_envs(family, 1, skills, sees_task), trust)
    skills = SkillModel.load(trained.skills) if trained.skills else None
    return (
        trained.actor,
        make_envs(family, trained.actor.rollouts, skills, trained.sees_task),
        chosen_task(family, config),
    )


def adapt(
    run: str | Path, config: TaskConfig, episodes: int, seed: int, folder: Path, trust: bool = False
) -> Trials | None:
    """K rounds of episodes in the task; the belief after them is written to the folder, then `adapted.yaml`, which marks it.

    Args:
        trust: of the run, as for `load_trained`.

    Returns:
        What happened; None if the folder holds this adaptation already.

    Raises:
        UserError: the folder holds another adaptation, another process uses it, or it cannot be written.
    """
    about = {"run": str(Path(run).resolve()), "task": to_plain(config), "episodes": episodes, "seed": seed}
    agent, envs, task = loaded(run, config, trust)  # what is wrong is said before the folder is taken
    identity = Identity(about, complete, inputs={"run": run_input(run)})
    own = Seeds(seed, task_id(task))
    resets = own.stream("adaptation_resets").integers(agent.rollouts * episodes).reshape(agent.rollouts, episodes)
    for note in exploration_notes(agent, episodes, "episodes"):
        print(f"note: {note}", file=sys.stderr)
    flags = [k < agent.exploration_episodes for k in range(episodes)]
    draws = own.stream("adaptation_acting").torch()
    with locked_folder(folder):
        if (folder / ADAPTED).exists():
            if changed := identity.changes_of(folder / ADAPTED, about):
                raise UserError(
                    f"{folder}: holds another adapted agent ({'; '.join(changed[:5])}); use another --out, or delete the folder"
                )
            identity.check(folder / "belief", load_state(folder / "belief")[1])
            return None
        watch.start(EnvironmentConfig.step_seconds)
        watch.label(shown(task))
        try:
            trials, belief = trial(agent, envs, [task] * agent.rollouts, resets, draws, flags)
        except EnvironmentFailed as error:
            raise UserError(f"{shown(task)}: {error}; use another seed, or repair the environment") from error
        envs.close()
        save_state(folder / "belief", {"belief": pack(belief)}, identity.meta())
        write_whole(folder / ENVIRONMENT, json.dumps({"modules": modules_of_run(folder, about)}))
        write_whole(folder / ADAPTED, dump_yaml(about))
        return trials


def complete(about: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapted.yaml says, with every default of its task."""
    return {**about, "task": to_plain(build(TaskConfig, about.get("task"), "task"))}


def load_adapted(folder: Path, trust: bool = False) -> tuple[AdaptedAgent, Envs, Task]:
    """What `adapt` left in a folder, ready to act in its task. The run that it names is read where it says.

    Args:
        trust: import the modules that the folder and its run name, where they are not part of skillmeta.

    Raises UserError for a folder that holds no adapted agent, or one that names a module of its own without `trust`.
    """
    if not (folder / ADAPTED).exists():
        raise UserError(f"{folder}: holds no adapted agent; make one with skillmeta adapt RUN TASKS --out {folder}")
    check_links(folder, trust)
    about = read_yaml(folder / ADAPTED, limited=not trust)
    check_modules({"task": about.get("task")}, folder / ADAPTED, trust)
    config = build(TaskConfig, about.get("task"), f"{folder / ADAPTED}: task")
    agent, envs, task = loaded(str(about.get("run")), config, trust)
    state, meta = load_state(folder / "belief")
    identity = Identity(about, complete, inputs={"run": run_input(str(about["run"]))})
    identity.check(folder / "belief", meta)
    try:
        belief = unpack(agent.begin(1, torch.Generator().manual_seed(0)), state["belief"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder / 'belief'}: is not what the agent of {about['run']} knows; adapt it again") from None
    return AdaptedAgent(agent, belief), envs, task
