"""RL2 against a slow reference written from the papers (Duan et al. 2016; PPO; GAE) in double precision, what its policy sees,
and on a problem whose solution is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skillmeta.algorithms import rl2
from skillmeta.algorithms.rl2 import Config, Learner
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.data.trials import sequences
from skillmeta.nn.distributions import Categorical, Gaussian
from skillmeta.objectives.on_policy import Sample, ppo_loss
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Step, Trials
from tests.learners import make_learner
from tests.oracles.by_hand import Adam, assert_same, kl_normal, log_normal, mlp, weights

S, A, N, K, T, H = 2, 3, 4, 2, 3, 6  # state, action; trials, episodes, decisions; hidden units


def normalize(x: Tensor) -> Tensor:
    return (x - 0.3) / 2


def skill_prior(observation: Tensor) -> Gaussian:
    return Gaussian(observation[:, :1].repeat(1, A), -0.5 + 0.2 * observation[:, 1:].repeat(1, A))


# -- one update ------------------------------------------------------------------------------------------------------------
class Reference:
    """Network and optimiser in double precision. A trial is a list of its valid decisions."""

    def __init__(self, learner: Learner, discrete: bool):
        self.config, self.discrete, self.skills = learner.config, discrete, learner.acting.skills is not None
        self.parameters = weights(learner.network)
        self.gru, self.policy, self.value = self.parameters[:4], self.parameters[4:8], self.parameters[8:]
        self.mean, self.stddev, self.seen = torch.zeros(()).double(), torch.ones(()).double(), False
        self.adam = Adam(self.parameters, self.config.learning_rate)

    def normalize(self, x: Tensor) -> Tensor:
        return normalize(x) if self.skills else x

    def rows(self, trials: Trials, n: int) -> list[dict]:
        """Inputs, actions and rewards that count of each decision of the n-th trial."""
        rows, scale = [], self.config.reward_scale
        before, action, reward = torch.zeros(S), torch.zeros(A), 0.0
        for k in range(K):
            for t in range(T):
                if not trials.valid[n, k, t]:
                    continue
                raw = torch.from_numpy(trials.observation[n, k, t])
                x = [self.normalize(raw), action, torch.tensor([reward * scale, float(t == 0)])]
                x += [before] if self.config.previous_observation else []
                before, action = self.normalize(raw), torch.from_numpy(trials.action[n, k, t])
                reward = float(trials.reward[n, k, t])
                counts = reward * scale if k >= self.config.free_episodes else 0.0
                rows.append({"x": torch.cat(x).double(), "raw": raw.double(), "action": action.double(), "r": counts})
        return rows

    def run(self, rows: list[dict]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Log probability of the action, value, and divergence from the prior, of each decision."""
        w_in, w_state, b_in, b_state = self.gru
        h, out = torch.zeros(H).double(), []
        for row in rows:
            i, s = w_in @ row["x"] + b_in, w_state @ h + b_state
            reset, keep = torch.sigmoid(i[:H] + s[:H]), torch.sigmoid(i[H : 2 * H] + s[H : 2 * H])
            h = (1 - keep) * torch.tanh(i[2 * H :] + reset * s[2 * H :]) + keep * h
            features = torch.cat([h, self.normalize(row["raw"])])
            numbers, value = mlp(self.policy, features), self.mean + self.stddev * mlp(self.value, features)[0]
            if self.discrete:
                log = torch.log_softmax(numbers, 0)
                out.append(((log * row["action"]).sum(), value, (log.exp() * log).sum()))
                continue
            mean, log_stddev = numbers.chunk(2)
            if self.skills:
                prior = skill_prior(row["raw"][None])
                mean, log_stddev = mean + prior.mean[0], log_stddev + prior.log_stddev[0]
                divergence = kl_normal(mean, log_stddev, prior.mean[0], prior.log_stddev[0])
            else:
                divergence = -(log_stddev + 0.5 * np.log(2 * np.pi * np.e)).sum()
            out.append((log_normal(row["action"], mean, log_stddev), value, divergence))
        return out

    def prepare(self, trials: Trials) -> list[list[dict]]:
        """The trials with advantages, returns and log probabilities; then the value head takes the scale of the returns."""
        gamma, lam, batch = self.config.discount, self.config.gae_lambda, []
        with torch.no_grad():
            for n in range(N):
                rows = self.rows(trials, n)
                told = self.run(rows)
                values = [float(value) for _, value, _ in told] + [0.0]
                for t, row in enumerate(rows):
                    row["A"] = sum(
                        (gamma * lam) ** (i - t) * (rows[i]["r"] + gamma * values[i + 1] - values[i])
                        for i in range(t, len(rows))
                    )
                    row["R"], row["log_prob"] = row["A"] + values[t], float(told[t][0])
                batch.append(rows)
            every = [row for rows in batch for row in rows]
            for key, name in (("A", "advantage"), ("R", "R")):
                column = np.array([row[key] for row in every])
                for row in every:
                    row[name] = (row["A"] - column.mean()) / column.std() if key == "A" else row["R"]
            rate = 0.1 if self.seen else 1.0
            mean = self.mean + rate * (column.mean() - self.mean)
            old = self.stddev if self.seen else torch.zeros(()).double()
            stddev = old + rate * (column.std() - old)
            self.value[2].mul_(self.stddev / stddev)
            self.value[3].copy_((self.stddev * self.value[3] + self.mean - mean) / stddev)
            self.mean, self.stddev, self.seen = mean, stddev, True
        return batch

    def update(self, batch: list[list[dict]], left: float) -> list[Tensor]:
        config, terms = self.config, []
        for rows in batch:
            for row, (log_prob, value, divergence) in zip(rows, self.run(rows), strict=True):
                ratio = (log_prob - row["log_prob"]).exp()
                advantage, at = float(row["advantage"]), float(ratio.detach())
                clipped = ratio if abs(at - 1) < config.clip else torch.tensor(1 + np.sign(at - 1) * config.clip)
                surrogate = min(ratio * advantage, clipped * advantage)
                terms.append(torch.stack([surrogate, ((value - row["R"]) / self.stddev) ** 2, divergence]))
        surrogate, error, divergence = torch.stack(terms).mean(0)
        total = -surrogate + config.value_coefficient * error + left * config.prior_coefficient * divergence
        gradients = torch.autograd.grad(total, self.parameters)
        norm = torch.stack([(g**2).sum() for g in gradients]).sum().sqrt()
        self.adam.lr = left * config.learning_rate
        self.adam.apply([g * min(1.0, float(config.max_grad_norm / norm)) for g in gradients])
        return [surrogate, error, divergence]


def random_trials(generator: np.random.Generator, discrete: bool) -> Trials:
    lengths = generator.integers(1, T + 1, (N, K))
    valid = np.arange(T) < lengths[..., None]
    ended = valid & (np.arange(T) == lengths[..., None] - 1)
    action = generator.normal(size=(N, K, T, A)).astype(np.float32)
    return Trials(
        observation=generator.normal(size=(N, K, T + 1, S)).astype(np.float32),
        action=np.eye(A, dtype=np.float32)[action.argmax(-1)] if discrete else action,
        reward=3 * generator.normal(size=(N, K, T)).astype(np.float32), terminated=ended, truncated=~ended & False,
        steps=valid.astype(np.int64), success=ended, valid=valid,
    )  # fmt: skip


BASE = Config(
    episodes=K, tasks=N, minibatches=1, hidden=H, discount=0.8, gae_lambda=0.6, clip=0.1, learning_rate=1e-2,
    value_coefficient=0.4, prior_coefficient=0.3, max_grad_norm=0.2,
)  # fmt: skip
CASES = {
    "continuous": {},
    "discrete": {"max_grad_norm": 100.0},
    "skills": {},
    "E-RL2": {"free_episodes": 1, "reward_scale": 0.5, "previous_observation": True},
}


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_the_reference(case):
    discrete, config = case == "discrete", replace(BASE, **CASES[case])
    skills = (skill_prior, normalize) if case == "skills" else ()
    learner = make_learner(rl2, config, S, np.full(A, 0.7, np.float32), discrete, *skills, seeds=Seeds(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a policy that acts on what it remembers
        learner.network.policy_head.layers[-1].weight.normal_(0, 0.5, generator=generator)
    reference, start = Reference(learner, discrete), weights(learner.network)
    numpy = np.random.default_rng(0)
    for left in (1.0, 0.5):
        trials = random_trials(numpy, discrete)
        sample, batch = learner.prepare(sequences(trials)), reference.prepare(trials)
        shift = 0.5 * torch.randn(sample.log_prob.shape, generator=generator)  # as if another policy had acted
        assert sample.valid.sum(1).tolist() == [len(rows) for rows in batch]
        for n, rows in enumerate(batch):
            for i, row in enumerate(rows):
                torch.testing.assert_close(sample.inputs[n, i].double(), row["x"])
                for name, wanted in (("advantage", "advantage"), ("returns", "R"), ("log_prob", "log_prob")):
                    assert float(getattr(sample, name)[n, i]) == pytest.approx(row[wanted], abs=2e-4)
                row["log_prob"] += float(shift[n, i])
        assert float(learner.network.value_head.mean) == pytest.approx(float(reference.mean), abs=1e-4)
        assert float(learner.network.value_head.deviation) == pytest.approx(float(reference.stddev), abs=1e-4)
        sample = sample._replace(log_prob=sample.log_prob + shift)
        for chosen in ([0, 2], [3, 1]):
            told = learner.update(sample.rows(torch.tensor(chosen)), left)
            wanted = torch.stack(reference.update([batch[n] for n in chosen], left)).detach()
            torch.testing.assert_close(told.double(), wanted, rtol=1e-3, atol=1e-4)
    assert_same(learner.network.parameters(), reference.parameters, start, atol=5e-4)


# -- the parts of the loss ---------------------------------------------------------------------------------------------------
def one_decision(ratio: float, advantage: float, logits: Tensor) -> tuple[Sample, Config]:
    """A choice of the first of two actions, `ratio` times as likely now as when it was taken."""
    action, empty = torch.tensor([[[1.0, 0.0]]]), torch.zeros(1, 1, 1)
    log_prob = Categorical(logits).log_prob(action).detach() - np.log(ratio)
    one = torch.ones(1, 1)
    return Sample(empty, empty, empty, action, log_prob, advantage * one, one, one), Config(clip=0.2)


@pytest.mark.parametrize(("ratio", "advantage", "moves"), [
    (1.5, 1.0, False), (1.5, -1.0, True), (0.5, 1.0, True), (0.5, -1.0, False), (1.1, 1.0, True), (0.9, -1.0, True),
])  # fmt: skip
def test_outside_the_clip_nothing_pulls_further(ratio, advantage, moves):
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    sample, config = one_decision(ratio, advantage, logits)
    total, _ = ppo_loss(Categorical(logits), torch.ones(1, 1), None, sample, config.clip, 0.5, 0.0, torch.ones(()))
    (gradient,) = torch.autograd.grad(total, logits)
    assert (float(gradient[0, 0, 0]) * advantage < 0) == moves and bool((gradient != 0).any()) == moves


@pytest.mark.parametrize("discrete", [False, True])
def test_without_advantages_the_policy_goes_to_its_prior_and_values_to_the_returns(discrete):
    """The uniform policy, where the prior is uniform; p(z|s) in skill space. Returns are those of what was seen: learnable."""
    config = replace(BASE, hidden=16, prior_coefficient=0.05, value_coefficient=1.0, max_grad_norm=1.0)
    prior = None if discrete else skill_prior
    learner = make_learner(rl2, config, S, np.ones(A, np.float32), discrete, prior, seeds=Seeds(0))
    with torch.no_grad():
        learner.network.policy_head.layers[-1].weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    sample = learner.prepare(sequences(random_trials(np.random.default_rng(0), discrete)))
    wanted = 5 + 3 * sample.observation[..., 0] * sample.valid
    learner.network.value_head.rescale(wanted, sample.valid)
    sample = sample._replace(advantage=torch.zeros_like(sample.advantage), returns=wanted)
    first = learner.update(sample)
    for _ in range(200):
        last = learner.update(sample)
    gap = np.log(A) if discrete else 0.0  # minus the entropy of the uniform policy
    assert first[2] + gap > 0.05 and last[2] + gap < 0.1 * (first[2] + gap)
    assert last[1] < 0.02 < 0.5 * first[1]
    with torch.no_grad():
        value = learner.evaluate(sample.inputs, sample.observation, sample.raw)[1]
    assert ((value - wanted).abs() * sample.valid).mean() < 0.5


def test_every_trial_is_in_one_minibatch_of_each_epoch(monkeypatch):
    config = Config(tasks=10, minibatches=3, epochs=2, hidden=4, episodes=2)
    learner, seen = make_learner(rl2, config, 2, np.ones(2, np.float32), discrete=True, seeds=Seeds(0)), []
    monkeypatch.setattr(
        learner, "update", lambda batch, left: seen.append(batch.raw[:, 0, 0].tolist()) or torch.zeros(3)
    )
    counter = iter(range(1, 11))
    with Workers(Uneven, envs_per_batch=64) as workers:
        learner.iterate(OnlineSource(workers, lambda g: next(counter), Seeds(0), Budget(10**6)))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    epochs = [sum(seen[:3], []), sum(seen[3:], [])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [float(n) for n in range(1, 11)] and epochs[0] != epochs[1]


# -- what acting sees ----------------------------------------------------------------------------------------------------------
class Uneven:
    """Discrete environments that end after one to three decisions, one by one. Observation: task and time; rewards differ."""

    spec = EnvSpec(2, np.ones(2, np.float32), discrete=True)
    lengths = (3, 1, 2)

    def __init__(self, num: int):
        self.num, self.began = num, 0

    def reset(self, seeds: Sequence[int], tasks: Sequence[object] | None = None) -> np.ndarray:
        self.tasks, self.time = np.array(tasks, np.float32), np.zeros(self.num, np.int64)
        self.ends = np.array([self.lengths[(i + self.began) % 3] for i in range(self.num)])
        self.began += 1
        return self.look()

    def look(self) -> np.ndarray:
        return np.stack([self.tasks, self.time.astype(np.float32)], 1)

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        alive = self.time < self.ends
        self.time = self.time + alive
        reward = np.where(alive, self.tasks + 0.1 * self.time + 0.01 * self.began, 0).astype(np.float32)
        ended = alive & (self.time == self.ends)
        return Step(self.look(), reward, ended, ended & False, alive.astype(np.int64), ended)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("previous", [False, True])
def test_acting_sees_the_true_last_transition(previous):
    """Also over the end of an episode, and in an environment that ended before the others."""
    config = Config(episodes=3, hidden=4, reward_scale=0.5, previous_observation=previous)
    learner = make_learner(rl2, config, 2, np.ones(2, np.float32), discrete=True, seeds=Seeds(0))
    core: nn.Module = learner.network.core
    calls, step = [], core.step
    core.step = lambda inputs, state: calls.append(inputs.clone()) or step(inputs, state)
    resets = np.zeros((3, 3), np.int64)
    trials, _ = trial(learner.acting, Uneven(3), [5, 6, 7], resets, torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in trials.lengths.tolist()}) == 3
    for n in range(3):
        before, action, reward, call = np.zeros(2), np.zeros(2), 0.0, 0
        for k in range(3):
            for t in range(trials.valid[:, k].sum(1).max()):
                if trials.valid[n, k, t]:
                    here = trials.observation[n, k, t]
                    wanted = [*here, *action, 0.5 * reward, float(t == 0), *(before if previous else ())]
                    assert calls[call][n].tolist() == pytest.approx(wanted)
                    before, action, reward = here, trials.action[n, k, t], trials.reward[n, k, t]
                call += 1
        assert call == len(calls)


# -- a problem with a known solution -----------------------------------------------------------------------------------------
class TwoArms(Uneven):
    """One arm always pays 1, the other never; the task says which. Two episodes of two pulls."""

    lengths = (2, 2, 2)

    def look(self) -> np.ndarray:
        return np.zeros((self.num, 2), np.float32)

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        return super().step(action)._replace(reward=(action.argmax(1) == self.tasks).astype(np.float32))


def test_it_finds_the_arm_that_pays_and_stays_with_it():
    """Optimal: half of the first pulls pay, and all that follow, over the end of the first episode. At random: 2 of 4."""
    config = Config(
        episodes=2, tasks=128, hidden=16, learning_rate=1e-2, prior_coefficient=0.05, minibatches=2, anneal=False
    )
    learner = make_learner(rl2, config, 2, np.ones(2, np.float32), discrete=True, seeds=Seeds(0))
    with Workers(TwoArms, envs_per_batch=128) as workers:
        source = OnlineSource(workers, lambda g: int(g.integers(2)), Seeds(0), Budget(10**6))
        learner.iterate(source)
        first = source.last.returns.sum(1).mean()
        for _ in range(30):
            learner.iterate(source)
    assert first < 2.5 and source.last.returns.sum(1).mean() > 3.2
    best, _ = trial(learner.acting, TwoArms(2), [0, 1], np.zeros((2, 2), np.int64), torch.Generator(), False)
    assert sorted(best.returns.sum(1).tolist()) == [3, 4]
