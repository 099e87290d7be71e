"""Task families, one file each. A module here has `Config` and `family(config)`; its name is what a config says as `family`."""

from gymnasium.envs.registration import register, registry

if "skillmeta/Task-v0" not in registry:
    register("skillmeta/Task-v0", entry_point="skillmeta.tasks.base:make_env", disable_env_checker=True)
