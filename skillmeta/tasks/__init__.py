"""Task families, one file each. A module here has `Config` and `Family`; its name is what a config says as `family`."""
