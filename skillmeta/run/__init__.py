"""A run on disk: config, metrics, checkpoints, progress, and several runs at once."""
