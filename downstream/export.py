"""Write a trained policy into a file that needs no skillmeta: `python -m downstream.export runs/maze-sac --to policy.onnx`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import add_trust, run_program

USE = {
    ".pt2": "torch.export.load({file!r}).module()({inputs})",
    ".onnx": "onnxruntime.InferenceSession({file!r}).run(None, {{...}})  # its inputs: {inputs}",
    ".zip": "stable_baselines3.SAC.load({file!r}).predict(observation, deterministic=True)",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="skillmeta export",
        description="Write what acts of a trained run into a file that needs no skillmeta: the policy's mode, a step at a time.",
    )
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="a finished run of `skillmeta finetune`, or what `adapt` left"
    )
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help="its ending says the format: .pt2 (torch.export), .onnx (extra export) or .zip (Stable-Baselines3)",
    )
    add_trust(parser, "the run")
    arguments = parser.parse_args(argv)
    from skillmeta.exporting import export

    file = export(arguments.run, arguments.to, trust=arguments.trust)
    print(f"written: {file}")
    print(
        f"use it:  {USE[file.suffix].format(file=str(file), inputs='observation=..., or with skill=, step=: see docs/python.md')}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
