"""Learn skills from logs of past behaviour, then learn new tasks from less experience with them."""

__version__ = "0.2.0.dev0"
