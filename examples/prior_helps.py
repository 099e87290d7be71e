"""A prior that helps: the same skills with and without their prior, on one goal of a maze.

    python examples/prior_helps.py [--out FOLDER] [--small]

A planner records logs, three skill models are learned from them, and SAC learns the goal in skills: once pulled
towards uniform noise (`without_prior`), once towards the prior (`with_prior`). Prints the success of each
method and their difference, and writes the page FOLDER/report.html. Needs the extra `demo`.
"""

import argparse

import skillmeta

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", default="runs/prior-helps", help="folder of the results")
parser.add_argument("--small", action="store_true", help="a budget that shows that it runs, and nothing else")
MAZE = {"size": 20, "layout_seed": 0, "max_episode_steps": 2_000}


def config(small: bool) -> dict:
    return {
        "title": "Is the prior worth anything?",
        "logs": {
            "dataset": "skillmeta/prior-helps-v0",
            "family": "maze",
            "options": MAZE,
            "collector": "maze_planner",
            "expert": {"steps": 10_000 if small else 300_000},
        },
        "skills": {
            "source": "minari:skillmeta/prior-helps-v0",
            "model": {"horizon": 10, "dim": 10, "hidden": 128, "decoder_depth": 3, "prior_depth": 4},
            "training": {"steps": 20 if small else 300, "held_out_every": 10 if small else 100, "beta": 2e-2},
            "quality": {"episodes": 1 if small else 5},
            "task": {"family": "maze", "options": MAZE},
        },
        "methods": {"without_prior": "downstream/maze_skill_sac", "with_prior": "downstream/maze_spirl"},
        "reference": "with_prior",
        "changes": {
            "task": {"family": "maze", "options": MAZE},
            "env_steps": 4_000 if small else 60_000,
            "max_episodes": None,
            "evaluation": {"episodes": 2 if small else 10},
        },
        "tasks": {"count": 1, "by": "path_cells"},  # the test goal with the median length of path: no result chooses it
        "seeds": [0, 1] if small else [0, 1, 2],
        "stack_seeds": True,  # the runs of a method in one process
    }


def main() -> None:
    arguments = parser.parse_args()
    result = skillmeta.ablate(config(arguments.small), arguments.out)
    print("\n".join(result.numbers["headline"]))
    for other, found in result.numbers["differences"]["success"].items():
        print(f"with_prior minus {other}: {found['value']:+.2f}, 95 % interval {found['ci95']}")
    print(f"page: {result.page}")


if __name__ == "__main__":  # the runs are in processes of their own, which import this file
    main()
