"""Task families, one file each. A module here has `Config` and `family(config)`; its name is what a config says as `family`."""
