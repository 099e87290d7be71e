"""Skills inside Stable-Baselines3: its SAC acts in skills that were learned from logs.

    python examples/skills_in_sb3.py [--out FOLDER] [--small]

The recordings of `write_logs.py` swing a pendulum. Skills of five steps are learned from them. `SkillEnv` makes
a Gymnasium environment whose actions are skills, and SAC of Stable-Baselines3 learns in it, beside SAC in the
pendulum's own actions, both for the same environment steps. Prints the mean return of each over 20 episodes,
and leaves the policies in FOLDER.
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from write_logs import record

import skillmeta

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", default="runs/sb3", type=Path, help="folder of the results")
parser.add_argument("--small", action="store_true", help="a budget that shows that it runs, and nothing else")
HORIZON = 5


def arrays() -> dict[str, np.ndarray]:
    """The recordings in the layout of a flat file."""
    episodes = record()
    ends = np.concatenate([np.arange(len(one["action"])) == len(one["action"]) - 1 for one in episodes])
    return {
        "observations": np.concatenate([one["seen"][:-1] for one in episodes]),
        "actions": np.concatenate([one["action"] for one in episodes]),
        "rewards": np.concatenate([one["reward"] for one in episodes]),
        "timeouts": ends,
    }


def main() -> None:
    arguments = parser.parse_args()
    env_steps, updates = (1_000, 50) if arguments.small else (10_000, 1_000)
    skills = skillmeta.pretrain(
        {
            "model": {"horizon": HORIZON, "dim": 3, "hidden": 64, "decoder_depth": 2, "prior_depth": 2},
            "training": {"steps": updates, "held_out_every": updates // 2},
        },
        arguments.out / "skills",
        logs=arrays(),
    )
    print("\n".join(skills.numbers["verdict"]))

    def in_skills() -> gymnasium.Env:
        return Monitor(skillmeta.SkillEnv(gymnasium.make("Pendulum-v1"), str(skills.folder)))

    def in_actions() -> gymnasium.Env:
        return Monitor(gymnasium.make("Pendulum-v1"))

    for name, make, steps_a_decision in (("skills", in_skills, HORIZON), ("actions", in_actions, 1)):
        model = SAC("MlpPolicy", make(), gamma=0.99**steps_a_decision, seed=0)
        model.learn(env_steps // steps_a_decision)  # Stable-Baselines3 counts decisions
        model.save(arguments.out / name)
        mean, spread = evaluate_policy(model, make(), n_eval_episodes=20)
        print(
            f"{name}: return {mean:.0f}, standard deviation over episodes {spread:.0f}, after {env_steps:,} environment steps"
        )


if __name__ == "__main__":
    main()
