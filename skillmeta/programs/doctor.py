"""`skillmeta doctor`: versions, what is missing, and what that would cost. Exit status 1 if something needed is broken."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from skillmeta import __version__

NEEDED = (
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "stable_baselines3",
    "einops",
    "omegaconf",
    "h5py",
    "safetensors",
    "scipy",
)
OPTIONAL = {
    "matplotlib": "report",
    "minari": "minari",
    "pyarrow": "lerobot",
    "gymnasium_robotics": "robotics",
    "metaworld": "metaworld",
    "ogbench": "ogbench",
    "ray": "cluster",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "onnx": "export",
    "onnxscript": "export",
}


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="skillmeta doctor", description=__doc__).parse_args(argv)
    print(f"skillmeta {__version__}")
    print(f"python {platform.python_version()} on {platform.platform(terse=True)}, {os.cpu_count()} cores")
    broken = [name for name in NEEDED if not _imports(name)]
    for name, extra in OPTIONAL.items():
        if not _imports(name):
            print(f"  missing  {name}: in the clone, pip install -e '.[{extra}]'")
    if importlib.util.find_spec("d4rl") is None:
        print("  missing  d4rl (ids and scores of D4RL sets): pip install --no-deps d4rl==1.1")
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    print(f"  C++ compiler: {compiler or 'none; compile: true falls back to uncompiled updates, about half as fast'}")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    half = "avx512_bf16" in flags or "amx_bf16" in flags
    print(f"  bfloat16 in this CPU: {'yes' if half else 'not seen; leave bfloat16: false'}")
    if "torch" not in broken:
        from skillmeta.run.device import device_of

        print(f"  device: auto is {device_of('auto')}")
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd()):
            free = shutil.disk_usage(Path.cwd()).free / 2**30
            print(f"  this folder is writable, {free:.1f} GiB free")
    except OSError as error:
        print(f"  BROKEN   this folder is not writable ({error}); runs go to ./runs unless --out says otherwise")
        broken.append("folder")
    print("all needed parts work" if not broken else f"broken: {', '.join(broken)}; install again with constraints.txt")
    return 1 if broken else 0


def _imports(module: str) -> bool:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # some print notices about other things
            importlib.import_module(module)
        print(f"  {module.replace('_', '-')} {importlib.metadata.version(module.replace('_', '-'))}")
        return True
    except Exception as error:  # whatever stops an import is what this command is here to show
        if module in NEEDED:
            print(f"  BROKEN   {module}: {type(error).__name__}: {error}")
        return False
