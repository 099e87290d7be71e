"""An ablation, read with pandas: how hard should SAC be pulled towards uniform noise?

    python examples/read_ablation.py [--out FOLDER] [--small]

SAC learns one goal of the point robot with three initial coefficients of its entropy bonus, which stay fixed,
and three seeds. `ablate` makes the runs; the rest is pandas. Prints the return of each method and seed, and
mean and spread over seeds, and draws FOLDER/returns.png. Needs the extras `report` and `frames`.
"""

import argparse

import matplotlib

matplotlib.use("Agg")  # a file is drawn, not a window

import pandas

import skillmeta

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", default="runs/read-ablation", help="folder of the results")
parser.add_argument("--small", action="store_true", help="a budget that shows that it runs, and nothing else")


def main() -> None:
    arguments = parser.parse_args()
    config = {
        "task": {"family": "point", "split": "test"},
        "algorithm": {"base": "sac", "hidden": 64, "regularizer": {"controller": "fixed"}},
        "env_steps": 400 if arguments.small else 2_000,
    }
    coefficients = {"algorithm.regularizer.initial_coefficient": [0.01, 0.1, 1.0]}
    result = skillmeta.ablate(config, arguments.out, vary=coefficients, seeds=[0, 1, 2])

    runs = result.frame()  # a row for each run
    print(runs.pivot(index="method", columns="training_seed", values="return").round(2).to_string())
    by_method = runs.groupby("method")["return"].agg(["mean", "std", "count"])
    print(by_method.round(2).to_string())

    curves = pandas.read_csv(result.folder / "curves.csv")  # of training: mean and interval over the seeds
    curves = curves[(curves.quantity == "return") & (curves.axis == "env_steps")]
    axes = (
        curves.pivot_table(index="x", columns="method", values="mean").interpolate("index").plot(style=["-", "--", ":"])
    )
    axes.set(xlabel="environment steps", ylabel="return of training episodes")
    axes.figure.savefig(result.folder / "returns.png")
    print(f"picture: {result.folder / 'returns.png'}, page: {result.page}")


if __name__ == "__main__":  # the runs are in processes of their own, which import this file
    main()
