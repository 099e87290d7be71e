"""PEARL, RL2 and MAML on a family of your own, `valve.py` beside this file.

    python examples/meta_rl_on_your_family.py [--out FOLDER] [--small]

Each method learns on the 80 training tasks for the same environment steps. Then each runs trials of three
episodes in 20 test tasks. Prints a table of returns, a row an agent, a column an episode of the trial, and
writes FOLDER/adaptation.png and FOLDER/report.html. Needs the extras `report` and `frames`.
"""

import argparse

import matplotlib

matplotlib.use("Agg")  # a file is drawn, not a window

import skillmeta

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", default="runs/valve", help="folder of the results")
parser.add_argument("--small", action="store_true", help="a budget that shows that it runs, and nothing else")


def config(small: bool) -> dict:
    pearl = {
        "hidden": 64,
        "tasks_per_iteration": 20,
        "updates": 2 if small else 50,
        "context": "trial",
        "discount": 0.9,
    }
    return {
        "title": "Three ways to adapt to a hidden position",
        "methods": {
            "pearl": {"algorithm": {"name": "pearl", **pearl}},
            "rl2": {"algorithm": {"name": "rl2", "episodes": 3, "tasks": 40, "discount": 0.9}},
            "maml": {"algorithm": {"name": "maml", "tasks": 20, "rollouts": 5, "discount": 0.9}},
        },
        "changes": {
            "kind": "meta-train",
            "task": {"family": "valve", "split": "train"},  # the module's name, and the tasks that are trained on
            "env_steps": 12_000 if small else 150_000,
            "envs_per_batch": 800,
        },
        "test": {"split": "test", "episodes": 2},  # K = 2 episodes of adaptation: three are run
        "seeds": [0] if small else [0, 1],
    }


def main() -> None:
    arguments = parser.parse_args()
    result = skillmeta.ablate(config(arguments.small), arguments.out)
    episodes = result.frame()  # a row for each episode of the evaluation
    table = episodes.pivot_table(index="agent", columns="episode", values="return")
    print(table.round(2).to_string())
    axes = table.T.plot(marker="o", xticks=table.columns, xlabel="episode of the trial", ylabel="return")
    axes.figure.savefig(result.folder / "adaptation.png")
    print(f"page: {result.page}")


if __name__ == "__main__":  # the runs are in processes of their own, which import this file
    main()
