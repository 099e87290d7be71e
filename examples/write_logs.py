"""Recordings in the layouts of four projects: `python examples/write_logs.py FOLDER`.

A controller with noise swings the pendulum of Gymnasium. The same 40 episodes become

    FOLDER/lerobot          a LeRobot data set: by the package `lerobot` where it is installed, else LeRobot 2.1 by `pyarrow`
    FOLDER/robomimic.hdf5   demonstrations in robomimic's layout (robomimic has no writer: its documentation states the layout)
    FOLDER/minari           a Minari data set with a Dict of observations, by the package `minari`
    FOLDER/episodes         a folder of NPZ files, an episode each

The commands that load, pretrain on and act with each of them are printed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np

EPISODES, STEPS, FPS = 40, 200, 20
Episode = dict[str, np.ndarray]  # seen [T + 1, 3], action [T, 1], reward [T]


def record() -> list[Episode]:
    env, rng = gym.make("Pendulum-v1"), np.random.default_rng(0)
    episodes = []
    for number in range(EPISODES):
        seen, actions, rewards = [env.reset(seed=number)[0]], [], []
        for _ in range(STEPS):
            cos, sin, speed = seen[-1]
            upright = -(8 * sin + 2 * speed) if cos > 0.7 else 2 * np.sign(speed or 1.0)  # pump energy, then balance
            action = np.clip([upright + rng.normal(0, 0.5)], -2, 2).astype(np.float32)
            following, reward, *_ = env.step(action)
            seen.append(following)
            actions.append(action)
            rewards.append(reward)
        columns = {"seen": seen, "action": actions, "reward": rewards}
        episodes.append({name: np.asarray(values, np.float32) for name, values in columns.items()})
    return episodes


def write_lerobot(folder: Path, episodes: list[Episode]) -> str:
    """Returns what wrote it."""
    try:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    except ImportError:
        write_lerobot_by_layout(folder, episodes)
        return "pyarrow, by LeRobot's documented layout 2.1"
    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["cos", "sin", "speed"]},
        "action": {"dtype": "float32", "shape": (1,), "names": ["torque"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }
    data = LeRobotDataset.create("test/pendulum", FPS, features, root=folder, use_videos=False)
    for episode in episodes:
        for t in range(STEPS):
            reward = episode["reward"][t : t + 1]
            frame = {"observation.state": episode["seen"][t], "action": episode["action"][t], "next.reward": reward}
            data.add_frame({**frame, "task": "swing up"})
        data.save_episode()
    data.finalize()
    return "lerobot"


def write_lerobot_by_layout(folder: Path, episodes: list[Episode]) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    number = {"dtype": "float32", "shape": [1]}
    features = {"observation.state": {"dtype": "float32", "shape": [3]}, "action": number, "next.reward": number}
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    about = {"codebase_version": "v2.1", "total_episodes": EPISODES, "fps": FPS, "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(about))
    for index, episode in enumerate(episodes):
        columns = {
            "observation.state": list(episode["seen"][:-1]),
            "action": list(episode["action"]),
            "next.reward": episode["reward"],
            "episode_index": np.full(STEPS, index),
        }
        parquet.write_table(pyarrow.table(columns), folder / "data" / "chunk-000" / f"episode_{index:06d}.parquet")


def write_robomimic(path: Path, episodes: list[Episode]) -> None:
    """https://robomimic.github.io/docs/datasets/overview.html: a group for each demonstration, masks of names."""
    with h5py.File(path, "w") as file:
        for index, episode in enumerate(episodes):
            demo = file.create_group(f"data/demo_{index}")
            demo.attrs["num_samples"] = STEPS
            demo["actions"] = episode["action"] / 2  # robomimic's actions are in [-1, 1]
            demo["rewards"], demo["dones"] = episode["reward"], np.eye(1, STEPS, STEPS - 1, dtype=np.int64)[0]
            for group, seen in (("obs", episode["seen"][:-1]), ("next_obs", episode["seen"][1:])):
                demo[f"{group}/angle"], demo[f"{group}/speed"] = seen[:, :2], seen[:, 2:]
        names = np.array([f"demo_{index}".encode() for index in range(EPISODES)])
        file["mask/train"], file["mask/valid"] = names[: EPISODES * 9 // 10], names[EPISODES * 9 // 10 :]


def write_minari(root: Path, episodes: list[Episode]) -> None:
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    import minari
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    seen = Dict(angle=Box(-1, 1, (2,), np.float32), speed=Box(-8, 8, (1,), np.float32))
    ends = [False] * STEPS
    buffers = [
        EpisodeBuffer(
            index,
            None,
            None,
            {"angle": episode["seen"][:, :2], "speed": episode["seen"][:, 2:]},
            episode["action"],
            episode["reward"].tolist(),
            ends,
            [*ends[1:], True],
            {},
        )
        for index, episode in enumerate(episodes)
    ]
    torque = Box(-2, 2, (1,), np.float32)
    minari.create_dataset_from_buffers("test/pendulum-v0", buffers, observation_space=seen, action_space=torque)


def write_npz(folder: Path, episodes: list[Episode]) -> None:
    folder.mkdir(parents=True)
    for index, episode in enumerate(episodes):
        arrays = {"observations": episode["seen"][:-1], "next_observations": episode["seen"][1:]}
        np.savez(folder / f"episode_{index}.npz", actions=episode["action"], rewards=episode["reward"], **arrays)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1]).resolve()
    if folder.exists():
        raise SystemExit(f"{folder} exists already; name a new folder")
    folder.mkdir(parents=True)
    episodes = record()
    writer = write_lerobot(folder / "lerobot", episodes)
    write_robomimic(folder / "robomimic.hdf5", episodes)
    write_minari(folder / "minari", episodes)
    write_npz(folder / "episodes", episodes)
    print(f"{EPISODES} episodes of {STEPS} steps in four layouts; the LeRobot folder was written by {writer}")
    sources = {
        "lerobot": f"{folder}/lerobot",
        "robomimic": f"{folder}/robomimic.hdf5?angle,speed&actions=unit",
        "minari": "minari:test/pendulum-v0?angle,speed",
        "npz": f"{folder}/episodes",
    }
    print(f"export MINARI_DATASETS_PATH={folder}/minari")
    for name, source in sources.items():
        print(f'\nskillmeta inspect "{source}"')
        print(f'skillmeta skills examples/pendulum_skills.yaml "source={source}" --out runs/{name}-skills')
        print(f"skillmeta finetune examples/pendulum.yaml skills=runs/{name}-skills --out runs/{name}")


if __name__ == "__main__":
    main()
