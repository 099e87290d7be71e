"""One thread a process: two noisy cores are shared by all workers, and the number of threads changes the bits."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported; its own default needs a screen

import torch

torch.set_num_threads(1)
