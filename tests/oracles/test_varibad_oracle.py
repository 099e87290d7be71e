"""VariBAD's ELBO against a slow reference in NumPy, and on a problem whose solution is known."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.algorithms import varibad
from skillmeta.algorithms.varibad import Config, DecoderConfig
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.data.trial_store import TrialStore
from skillmeta.seeds import Seeds
from tests.learners import make_learner
from tests.oracles.test_rl2_oracle import A, S, TwoArms, random_trials

Z, M, E = 3, 5, 4  # of m, of the memory, of the embedding
BASE = Config(
    latent_dim=Z, memory=M, embedding_size=E, inference_trials=4, tasks=4, minibatches=1, hidden=8, replay_capacity=200,
    max_grad_norm=1e9,
)  # fmt: skip


def learner_of(config: Config) -> Any:
    return make_learner(varibad, config, S, np.ones(A, np.float32), True, seeds=Seeds(0))


# -- the ELBO --------------------------------------------------------------------------------------------------------------
def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def perceptron(layers: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    for i in range(0, len(layers), 2):
        x = layers[i] @ x + layers[i + 1]
        if i + 2 < len(layers):
            x = np.where(x > 0, x, 0.2 * x)
    return x


def decoded(both: tuple[list[np.ndarray], list[np.ndarray]], m: np.ndarray, decision: np.ndarray) -> np.ndarray:
    """Numbers of a decision: each the product of weights that m gives and of the decision's features and 1."""
    features = np.append(perceptron(both[1], decision), 1.0)
    return perceptron(both[0], m).reshape(-1, len(features)) @ features


def reference(learner: Any, trials: list[list[dict]], noise: np.ndarray, config: Config) -> np.ndarray:
    """The three terms, from the paper: each trial by itself, belief by belief, decision by decision, in double precision."""

    def numbers(module: Any) -> list[np.ndarray]:
        return [p.detach().double().numpy() for p in module.parameters()]

    embed, embed_bias, w_in, w_state, b_in, b_state, read, read_bias = numbers(learner.network.encoder)
    reward, observation = (
        (numbers(one.of_m), numbers(one.of_decision)) if one else None
        for one in (learner.decoders.reward, learner.decoders.observation)
    )
    total = np.zeros(3)
    for n, rows in enumerate(trials):
        h, beliefs = np.zeros(M), []
        for row in [None, *rows]:
            if row is not None:
                x = embed @ np.concatenate([row["next"], row["a"], [config.reward_scale * row["r"]]]) + embed_bias
                x = np.where(x > 0, x, 0.01 * x)
                i, s = w_in @ x + b_in, w_state @ h + b_state
                reset, keep = sigmoid(i[:M] + s[:M]), sigmoid(i[M : 2 * M] + s[M : 2 * M])
                h = (1 - keep) * np.tanh(i[2 * M :] + reset * s[2 * M :]) + keep * h
            out = read @ h + read_bias
            beliefs.append((out[:Z], np.exp(out[Z:])))
        before = (np.zeros(Z), np.ones(Z))
        for t, (mean, stddev) in enumerate(beliefs):
            ratio = (stddev / before[1]) ** 2
            total[2] += 0.5 * (ratio + ((mean - before[0]) / before[1]) ** 2 - 1 - np.log(ratio)).sum()
            before = mean, stddev
            m = mean + stddev * noise[n, t]
            for row in rows:
                past = [row["s"], row["a"]]
                shown = [row["next"], *(past if config.decoder.transition else [])]
                told, paid = decoded(reward, m, np.concatenate(shown))[0], config.reward_scale * row["r"]
                if config.decoder.reward == "bernoulli":
                    total[0] -= np.log(sigmoid(told) if paid > 0 else 1 - sigmoid(told))
                else:
                    total[0] += (told - paid) ** 2
                if observation:
                    total[1] += ((decoded(observation, m, np.concatenate(past)) - row["next"]) ** 2).mean()
    return total / len(trials)


CASES = {
    "as the grid": DecoderConfig(hidden=6, depth=1, reward="bernoulli"),
    "squared errors": DecoderConfig(hidden=6, transition=True, observation_coefficient=0.5),
}


def stored(seed: int = 0) -> tuple[TrialStore, list[list[dict]]]:
    """Four ragged trials, in a store and as lists of their decisions."""
    trials = random_trials(np.random.default_rng(seed), True)
    store, rows = TrialStore(200, S, A), []
    store.add(trials)
    for n in range(len(trials.reward)):
        rows.append([
            {
                "s": trials.observation[n, k, t], "a": trials.action[n, k, t], "r": float(trials.reward[n, k, t]),
                "next": trials.observation[n, k, t + 1],
            }
            for k in range(trials.reward.shape[1]) for t in range(trials.reward.shape[2]) if trials.valid[n, k, t]
        ])  # fmt: skip
    return store, rows


@pytest.mark.parametrize("case", CASES)
def test_the_elbo_is_that_of_the_reference_and_a_step_goes_along_its_gradient(case):
    config = replace(BASE, decoder=CASES[case], reward_scale=0.5, kl_coefficient=0.3)
    learner = learner_of(config)
    learner.store, rows = stored()
    twin = torch.Generator()
    twin.set_state(learner.generator.get_state())
    rows = [rows[i] for i in torch.randperm(4, generator=twin)]  # as the learner will draw them
    noise = torch.randn(4, max(map(len, rows)) + 1, Z, generator=twin).double().numpy()
    wanted, before = reference(learner, rows, noise, config), copy.deepcopy((learner.network, learner.decoders))
    assert learner.infer().tolist() == pytest.approx(wanted.tolist(), rel=1e-4)

    gradients = [p.grad for p in learner.inference.parameters()]
    assert not any(torch.equal(p, q) for p, q in zip(learner.inference.parameters(), inference(before), strict=True))
    slope, size = sum(float((g**2).sum()) for g in gradients), 1e-4
    sides = []
    for sign in (1, -1):  # a central difference along the gradient
        learner.network, learner.decoders = copy.deepcopy(before)
        with torch.no_grad():
            for p, g in zip(inference((learner.network, learner.decoders)), gradients, strict=True):
                p += sign * size * g / slope**0.5
        sides.append(reference(learner, rows, noise, config) @ [1, config.decoder.observation_coefficient, 0.3])
    assert (sides[0] - sides[1]) / (2 * size) == pytest.approx(slope**0.5, rel=1e-2)


def inference(networks: Any) -> list[torch.Tensor]:
    return [*networks[0].encoder.parameters(), *networks[1].parameters()]


# -- a problem with a known solution -----------------------------------------------------------------------------------------
def test_it_finds_the_arm_that_pays_and_stays_with_it():
    """Optimal: half of the first pulls pay, and all that follow, over the end of the first episode. At random: 2 of 4."""
    config = Config(
        episodes=2, tasks=64, latent_dim=2, memory=16, embedding_size=8, hidden=16, learning_rate=2e-2, prior_coefficient=0.05,
        minibatches=1, epochs=3, anneal=False, clip=0.2, decoder=DecoderConfig(hidden=16, transition=True), inference_rate=2e-2,
        inference_updates=3,
    )  # fmt: skip
    learner = make_learner(varibad, config, 2, np.ones(2, np.float32), True, seeds=Seeds(0))
    with Workers(TwoArms, envs_per_batch=64) as workers:
        source = OnlineSource(workers, lambda g: int(g.integers(2)), Seeds(0), Budget(10**6))
        learner.iterate(source)
        first = source.last.returns.sum(1).mean()
        for _ in range(20):
            metrics = learner.iterate(source)
    assert first < 2.5 and source.last.returns.sum(1).mean() > 3.2
    best, _ = trial(learner.acting, TwoArms(2), [0, 1], np.zeros((2, 2), np.int64), torch.Generator(), False)
    assert sorted(best.returns.sum(1).tolist()) == [3, 4]
    assert metrics["belief/kl"] > 0.4  # a pull tells ln 2 nats of the task
