"""One thread a process: two noisy cores are shared by all workers, and the number of threads changes the bits."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported; its own default needs a screen

import torch

torch.set_num_threads(1)
# A test run that a script put into the background ignores Ctrl-C, and so would the runs that its tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
