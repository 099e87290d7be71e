"""What a method is, in words, by the configs of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skillmeta.config import build, is_builtin, module_of
from skillmeta.errors import UserError
from skillmeta.evaluation.records import RunRecord
from skillmeta.skills.vae import SkillModel


def description(run: RunRecord, every: Sequence[RunRecord] = ()) -> str:
    """What the config of `every` run of a method makes of it, or that of a single run, in the words of its algorithm's
    `describe(config, acts_in, prior)` where the module is part of skillmeta and has one; else the config's values. No other module
    is imported."""
    options = dict(run.config.get("algorithm") or {})
    name = options.pop("name", None)
    acts = acts_in(run.config.get("skills"))
    sees = "; it sees the task" if run.config.get("see_task") else ""
    if start := run.config.get("start"):
        other, shown = started(every or [run]), start.get("episodes", 20)
        first = {0: "", 1: "; that acts in the first episode"}.get(shown, f"; that acts in the first {shown} episodes")
        sees += f"; it starts from {other}{first}"
    if stacked := run.config.get("stack_seeds"):
        sees += f"; one process trains the seeds {', '.join(map(str, stacked))}"
    if is_builtin("algorithms", name):
        at = f"{run.folder / 'config.yaml'}: algorithm"
        module = module_of("algorithms", name, f"{at}.name")
        if hasattr(module, "describe"):
            of_state = run.config.get("skill_prior", "state") == "state"
            prior = ("p(z|s)" if of_state else "one Gaussian for all states") if run.config.get("skills") else None
            if start and start.get("prior") == "agent":
                prior = f"the policy of {Path(str(start.get('run'))).name}"
            return str(module.describe(build(module.Config, options, at), acts, prior) + sees)
    values = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"the algorithm {name}, acting in {acts}{sees}" + (f"; {values}" if values else "")


def started(runs: Sequence[RunRecord]) -> str:
    """What runs of a method start from, and how much that had learned."""
    folders = dict.fromkeys(Path(str((run.config.get("start") or {}).get("run"))) for run in runs)
    one = next(iter(folders))
    steps = [(run.result or {}).get("env_steps_before") for run in runs]
    known = sorted({before for before in steps if isinstance(before, int)})
    many = " to ".join(f"{n:,}" for n in dict.fromkeys((*known[:1], *known[-1:])))
    learned = f", which learned in {many} environment steps" if known else ""
    return f"{one.name if len(folders) == 1 else f'{one.parent.name}, a run each training seed'}{learned}"


def acts_in(skills: object) -> str:
    """What an action is, by the folder of the run's skill model."""
    if not isinstance(skills, str):
        return "the environment's own actions"
    try:
        cloned = SkillModel.load(skills).config.cloning
    except UserError:  # the model is not beside the run any more
        return f"the actions of the model {Path(skills).name}"
    return "the environment's own actions, with a prior cloned from logs" if cloned else "skills"
