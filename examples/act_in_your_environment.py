"""Load a trained run and act, 20 episodes: `python examples/act_in_your_environment.py runs/maze-spirl`."""

import sys

import skillmeta

agent = skillmeta.load(sys.argv[1])
env = agent.make_env()  # the task that it was trained on; or yours, as gymnasium.make("YourEnv-v0")
successes, returns = [], []
for seed in agent.evaluation_seeds(20):  # those of the run's own evaluation; or any
    (observation, info), success, total = env.reset(seed=seed), False, 0.0
    agent.reset()
    while not agent.done:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation))
        agent.observe(observation, reward, terminated, truncated, info)
        success, total = success or info.get("success", False), total + float(reward)
    successes.append(success)
    returns.append(total)
print(f"success {sum(successes) / 20}, return {sum(returns) / 20:.6g}")
