"""One thread a process: two noisy cores are shared by all workers, and the number of threads changes the bits."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
