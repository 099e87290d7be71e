"""The semi-MDP of skills against the same primitive actions taken one at a time.

Five tests carry the name of a defect of SPiRL's released code, each of which they would catch.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from skillmeta.collect.episodes import episode
from skillmeta.data.replay import Replay
from skillmeta.envs.serial import SerialEnvs
from skillmeta.envs.skill_space import SkillEnv, SkillEnvs, SkillVectorEnv
from skillmeta.errors import CheckpointError, UserError
from skillmeta.seeds import Seeds
from skillmeta.types import Observed
from tests.learners import make_learner
from tests.skills.fakes import CounterEnv, GoalEnv, skill_model


class Scripted:
    """An agent that plays given skills, one row a decision."""

    def __init__(self, skills: np.ndarray):
        self.skills, self.seen, self.turn = torch.from_numpy(skills), [], 0

    def act(self, observation, belief, generator, explore):
        self.seen.append(observation.clone())
        self.turn += 1
        return self.skills[self.turn - 1].expand(len(observation), -1), belief

    def observe(self, belief, action, step):
        return belief


def reference(model, skills: np.ndarray, length: int, terminates: bool, seed: int):
    """Decisions (s, z, R, s', terminated, truncated, steps) by plain primitive steps."""
    env = CounterEnv(length, terminates)
    s, _ = env.reset(seed=seed)
    rows = []
    for z in skills:
        start, total = s, 0.0
        controller = model.controller(torch.from_numpy(z)[None])
        for h in range(model.horizon):
            action = controller(torch.from_numpy(s)[None], h)[0].numpy()
            s, r, terminated, truncated, _ = env.step(action)
            total += r
            if terminated or truncated:
                break
        rows.append((start, z, total, s, terminated, truncated, h + 1))
        if terminated or truncated:
            return rows
    raise AssertionError("the script was too short")


def rollout(model, skills, length=25, terminates=True, seed=7):
    envs = SkillEnvs(SerialEnvs(lambda: CounterEnv(length, terminates), unit_actions=False), model)
    agent = Scripted(skills)
    done, _ = episode(agent, envs, None, [seed], torch.Generator())
    return done, agent


SKILLS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize("closed_loop", [True, False])
@pytest.mark.parametrize("terminates", [True, False])
@pytest.mark.parametrize("length", [1, 9, 10, 11, 25, 30])
def test_every_decision_equals_the_step_by_step_reference(closed_loop, terminates, length):
    model = skill_model(closed_loop=closed_loop)
    done, _ = rollout(model, SKILLS, length, terminates)
    rows = reference(model, SKILLS, length, terminates, seed=7)
    assert done.valid.sum() == len(rows)
    for t, (start, z, total, after, terminated, truncated, steps) in enumerate(rows):
        np.testing.assert_allclose(done.observation[0, t], start, rtol=1e-6)
        np.testing.assert_allclose(done.observation[0, t + 1], after, rtol=1e-6)
        np.testing.assert_array_equal(done.action[0, t], z)
        assert done.reward[0, t] == total
        assert (done.terminated[0, t], done.truncated[0, t]) == (terminated, truncated)
        assert done.steps[0, t] == steps


def test_spirl_bug_1_the_stored_state_is_the_one_in_which_the_skill_was_chosen():
    done, agent = rollout(skill_model(), SKILLS)
    replay = Replay(10, 2, 3)
    replay.add(done)
    assert replay.columns.observation[:3, 0].tolist() == [0, 10, 20]  # SPiRL's code: 0, 11, 21
    assert replay.columns.next_observation[:3, 0].tolist() == [10, 20, 25]
    assert [float(seen[0, 0]) for seen in agent.seen] == [0, 10, 20]


def test_spirl_bug_2_a_time_out_is_not_a_termination_and_keeps_its_last_reward():
    done, _ = rollout(skill_model(), SKILLS, terminates=False)
    replay = Replay(10, 2, 3)
    replay.add(done)
    assert replay.columns.terminated[:3].tolist() == [0, 0, 0]  # SPiRL's code: 1 at the end
    assert replay.columns.reward[:3].sum() == sum(range(1, 26))  # SPiRL's code loses the last reward
    assert (replay.columns.terminated[:3] == 0).all() and done.truncated[0].tolist() == [False, False, True]


def test_spirl_bug_3_the_executed_skill_is_the_chosen_one_without_a_squash():
    model = skill_model()
    chosen = 1.5 * np.ones((5, 3), np.float32)  # inside the latent bound; SPiRL would execute 2 tanh(z)
    done, _ = rollout(model, chosen)
    rows = reference(model, chosen, 25, True, seed=7)
    assert float(done.observation[0, 1, 1]) == pytest.approx(float(rows[0][3][1]), rel=1e-6)
    squashed = reference(model, 2 * np.tanh(chosen), 25, True, seed=7)
    assert abs(float(done.observation[0, 1, 1]) - float(squashed[0][3][1])) > 1e-4


def test_spirl_bug_4_the_executed_action_is_the_decoders_output_without_a_tanh():
    model, env = skill_model(), CounterEnv()
    skill_env = SkillEnv(env, model)
    observation, _ = skill_env.reset(seed=7)
    z = np.full(3, 0.2, np.float32)
    skill_env.step(z / skill_env.bound)
    normalized = model.normalizer(torch.from_numpy(observation)[None])
    decoded = model.decoder(torch.cat([normalized, torch.from_numpy(z)[None]], -1))
    assert env.actions[0] == pytest.approx(float(decoded.clamp(-1, 1)), abs=1e-6)


def test_spirl_bug_5_at_the_start_the_policy_is_the_prior_and_explores_as_it_does():
    from skillmeta.algorithms import sac
    from skillmeta.objectives.regularizer import RegularizerConfig

    model = skill_model()
    regularizer = RegularizerConfig(prior="skill", target_divergence=1.0)
    config = sac.Config(regularizer=regularizer, policy_start="prior", hidden=16, replay_capacity=10)
    learner = make_learner(
        sac, config, 2, model.latent_bound.numpy(), prior=model.prior, normalize=model.normalizer, seeds=Seeds(0)
    )
    observation = torch.randn(64, 2)
    noise = torch.randn(64, 3, generator=torch.Generator().manual_seed(3))
    action, _ = learner.acting.act(observation, None, torch.Generator().manual_seed(3), explore=True)
    prior = model.prior(observation)
    bound = model.latent_bound
    torch.testing.assert_close(action, prior.rsample(noise).clamp(-bound, bound))
    assert float(learner.policy(model.normalizer(observation), prior).kl(prior).abs().max()) == 0.0


def test_a_budget_cuts_a_skill_short_and_calls_it_truncated():
    envs = SkillEnvs(SerialEnvs(CounterEnv, unit_actions=False), skill_model())
    done, _ = episode(Scripted(SKILLS), envs, None, [7], torch.Generator(), max_steps=13)
    assert done.steps[0].tolist() == [10, 3] and done.truncated[0].tolist() == [False, True]
    assert not done.terminated.any() and done.lengths.tolist() == [13]


def test_a_skill_outside_the_latent_bound_is_executed_at_the_bound():
    model = skill_model()
    reached = []
    for z in (9 * model.latent_bound, model.latent_bound):
        envs = SkillEnvs(SerialEnvs(CounterEnv, unit_actions=False), model)
        envs.reset([7])
        reached.append(float(envs.step(z[None].numpy()).observation[0, 1]))
    assert reached[0] == reached[1]


def test_success_within_a_skill_is_not_lost_by_its_end():
    class Early(CounterEnv):
        def step(self, action):
            *rest, _ = super().step(action)
            return (*rest, {"success": self.t == 3})

    envs = SkillEnvs(SerialEnvs(Early, unit_actions=False), skill_model())
    envs.reset([7])
    assert envs.step(SKILLS[:1]).success.tolist() == [True]
    assert envs.step(SKILLS[:1]).success.tolist() == [False]


def test_lockstep_equals_one_at_a_time():
    """Environments of different lengths in one batch do what each does alone."""
    model = skill_model()
    lengths = iter([5, 25, 12])
    envs = SkillEnvs(SerialEnvs(lambda: CounterEnv(next(lengths)), num=3, unit_actions=False), model)
    together, _ = episode(Scripted(SKILLS), envs, None, [1, 2, 3], torch.Generator())
    for i, length in enumerate([5, 25, 12]):
        alone, _ = rollout(model, SKILLS, length, seed=i + 1)
        count = int(alone.valid.sum())
        assert int(together.valid[i].sum()) == count
        np.testing.assert_allclose(together.observation[i, : count + 1], alone.observation[0], rtol=1e-5)
        np.testing.assert_array_equal(together.reward[i, :count], alone.reward[0])
        np.testing.assert_array_equal(together.steps[i, :count], alone.steps[0])
        assert together.reward[i, count:].sum() == 0 and together.steps[i, count:].sum() == 0


def test_the_gymnasium_wrapper_passes_gymnasiums_checker():
    env = SkillEnv(gym.make("Pendulum-v1"), skill_model(observation_dim=3))
    check_env(env, skip_render_check=True)


def test_the_gymnasium_wrapper_passes_stable_baselines3s_checker():
    from stable_baselines3.common.env_checker import check_env as check

    check(SkillEnv(gym.make("Pendulum-v1"), skill_model(observation_dim=3)), warn=True)


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_stable_baselines3_trains_in_skill_space_unchanged(algorithm):
    import stable_baselines3

    env = SkillEnv(gym.make("Pendulum-v1"), skill_model(observation_dim=3))
    small = {"SAC": {"learning_starts": 20, "batch_size": 16}, "PPO": {"n_steps": 32, "batch_size": 16, "n_epochs": 1}}
    learner = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=0, device="cpu", **small[algorithm])
    before = [p.clone() for p in learner.policy.parameters()]
    learner.learn(64)
    assert env.env_steps >= 64 * 10
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.policy.parameters(), strict=True))


@pytest.mark.parametrize("bound", [0.0, -1.0, np.inf])
def test_a_bound_that_is_no_width_is_refused(bound):
    with pytest.raises(UserError, match=f"SkillEnv: bound is {bound}; it must be above 0"):
        SkillEnv(CounterEnv(25), skill_model(), bound=bound)


def test_the_wrapper_discounts_inside_a_skill_when_asked_to():
    expected = sum(0.5**i * (i + 1) for i in range(10))
    env = SkillEnv(CounterEnv(25), skill_model(), discount=0.5)
    env.reset(seed=0)
    _, reward, *_ = env.step(np.zeros(3, np.float32))
    assert reward == pytest.approx(expected)
    vector = SkillVectorEnv([lambda: CounterEnv(25), lambda: CounterEnv(3)], skill_model(), discount=0.5)
    vector.reset(seed=0)
    _, rewards, *_ = vector.step(np.zeros((2, 3), np.float32))
    assert rewards.tolist() == pytest.approx([expected, 1 + 0.5 * 2 + 0.25 * 3])


def test_wrapper_and_lockstep_agree_and_report_primitive_steps():
    model = skill_model()
    env = SkillEnv(CounterEnv(25), model)
    env.reset(seed=7)
    told = [env.step(z / env.bound) for z in SKILLS[:3]]
    done, _ = rollout(model, SKILLS)
    assert [info["env_steps"] for *_, info in told] == done.steps[0].tolist() == [10, 10, 5]
    assert [reward for _, reward, *_ in told] == done.reward[0].tolist()
    assert told[-1][4]["success"] and told[-1][2]


def test_the_vector_environment_equals_single_ones_through_resets_and_decodes_in_one_batch(monkeypatch):
    model, lengths = skill_model(), [25, 12]
    vector = SkillVectorEnv([lambda n=n: CounterEnv(n) for n in lengths], model)
    singles = [SkillEnv(CounterEnv(n), model) for n in lengths]
    batches = []
    controller = vector.skills.fast_controller
    monkeypatch.setattr(vector.skills, "fast_controller", lambda z: batches.append(len(z)) or controller(z))
    observation, _ = vector.reset(seed=3)
    alone = [env.reset(seed=3 + i)[0] for i, env in enumerate(singles)]
    ended = [False, False]
    generator = np.random.default_rng(0)
    for _ in range(8):
        np.testing.assert_allclose(observation, np.stack(alone), rtol=1e-5)
        actions = generator.uniform(-1, 1, (2, 3)).astype(np.float32)
        vector_batches = len(batches)
        observation, reward, terminated, truncated, info = vector.step(actions)
        assert batches[vector_batches:] == [2]
        for i, env in enumerate(singles):
            if ended[i]:
                alone[i], _ = env.reset()
                expected = (0.0, False, False, 0)
                ended[i] = False
            else:
                alone[i], r, te, tr, told = env.step(actions[i])
                expected = (r, te, tr, told["env_steps"])
                ended[i] = te or tr
            assert (reward[i], terminated[i], truncated[i], info["env_steps"][i]) == pytest.approx(expected)


class Pictured(CounterEnv):
    """Its picture is the number of the step, in each pixel; the info says what `told` makes of the step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"

    def __init__(self, told=lambda step: {}):
        super().__init__(50)
        self.told = told

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, self.told(self.t)

    def render(self):
        return np.full((8, 8, 3), self.t, np.uint8)


def whole_episode(env) -> list[dict]:
    """The infos of its decisions."""
    env.reset(seed=0)
    infos, ended = [], False
    while not ended:
        *_, terminated, truncated, info = env.step(np.zeros(3, np.float32))
        infos.append(info)
        ended = terminated or truncated
    return infos


def test_a_recorder_inside_sees_every_primitive_step(tmp_path, monkeypatch):
    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(ImageSequenceClip=None))
    recorder = gym.wrappers.RecordVideo(Pictured(), str(tmp_path))
    monkeypatch.setattr(recorder, "stop_recording", lambda: None)  # which would write the film
    whole_episode(SkillEnv(recorder, skill_model()))
    assert [frame[0, 0, 0] for frame in recorder.recorded_frames] == list(range(51))
    env = SkillEnv(gym.wrappers.RenderCollection(Pictured()), skill_model())
    whole_episode(env)
    assert [frame[0, 0, 0] for frame in env.render()] == list(range(51))


def test_wrong_use_is_one_sentence(tmp_path):
    env, many = SkillEnv(Pictured(), skill_model()), SkillVectorEnv([Pictured, Pictured], skill_model())
    with pytest.raises(UserError, match="call reset before the first step"):
        env.step(np.zeros(3))
    env.reset()
    many.reset()
    with pytest.raises(UserError, match=r"the action has shape \(1,\), the action space \(3,\)"):
        env.step(np.zeros(1))
    with pytest.raises(UserError, match=r"the action has shape \(3,\), the action space \(2, 3\)"):
        many.step(np.zeros(3))
    (tmp_path / "config.yaml").write_text("kind: finetune")
    with pytest.raises(
        UserError, match="holds a run, but no skill model; name the --out of a finished `skillmeta skills`"
    ):
        SkillEnv(Pictured(), str(tmp_path))


@pytest.mark.parametrize("name", ["success", "is_success"])
def test_success_at_any_primitive_step_is_given_by_both_names_where_it_is_reported(name):
    """Stable-Baselines3 counts `is_success`."""
    env = Pictured(lambda step: {name: step == 13})
    for wrapped in (SkillEnv(env, skill_model()), SkillVectorEnv([lambda: env], skill_model())):
        infos = whole_episode(wrapped) if isinstance(wrapped, SkillEnv) else vector_infos(wrapped)
        for said in ("success", "is_success"):
            assert [bool(np.all(info[said])) for info in infos] == [False, True, False, False, False]
    assert not {"success", "is_success"} & set(whole_episode(SkillEnv(Pictured(), skill_model()))[0])


def vector_infos(env) -> list[dict]:
    env.reset(seed=0)
    return [env.step(np.zeros((1, 3), np.float32))[4] for _ in range(5)]


def test_a_model_for_another_environment_is_refused():
    with pytest.raises(CheckpointError, match="observations of 2 and actions of 1"):
        SkillEnv(gym.make("Pendulum-v1"), skill_model())


NAMED = (Observed("step", 1), Observed("a_sum", 1))  # the order of the plain environment, not that of the Dict


@pytest.mark.parametrize("flattened", [False, True])
def test_skills_see_their_parts_of_a_dict_and_the_learner_everything(flattened):
    """The same skills in the plain environment and in one whose Dict has these numbers in another order, and a goal."""
    plain, goal = SkillEnv(CounterEnv(25), skill_model()), GoalEnv(25)
    env = SkillEnv(
        gym.wrappers.TimeLimit(gym.wrappers.FlattenObservation(goal), 99) if flattened else goal,
        skill_model(observed=NAMED),
    )
    assert env.observation_space == (env.env.observation_space)
    (seen, _), (parts, _) = plain.reset(seed=7), env.reset(seed=7)
    for z in SKILLS[:3]:
        np.testing.assert_array_equal(parts[[4, 0]] if flattened else np.append(parts["step"], parts["a_sum"]), seen)
        (seen, *told), (parts, *same) = plain.step(z), env.step(z)
        assert told == same


def test_environments_in_lockstep_and_in_gymnasiums_vector_agree_on_a_dict():
    model = skill_model(observed=NAMED)
    envs = SkillEnvs(SerialEnvs(lambda: GoalEnv(25), 2, unit_actions=False), model)
    assert envs.spec.observed == (Observed("a_sum", 1), Observed("goal", 3), Observed("step", 1))
    vector = SkillVectorEnv([lambda: GoalEnv(25)] * 2, model)
    seen, (batch, _) = envs.reset([3, 4]), vector.reset(seed=3)
    z = np.array([[0.5, -0.2, 0.1], [0.0, 0.3, -0.9]], np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(seen, np.concatenate([batch["a_sum"], batch["goal"], batch["step"]], 1))
        seen, (batch, reward, *_) = envs.step(z * vector.bound).observation, vector.step(z)
    assert reward.shape == (2,) and vector.observation_space.contains(batch)


@pytest.mark.parametrize(
    ("observed", "dim", "words"),
    [
        ((Observed("arm", 2),), 2, r"the skills see arm \(2\), .* has a_sum \(1\), goal \(3\), step \(1\)"),
        ((Observed("goal", 2),), 2, r"the skills see goal \(2\)"),
        ((), 2, "the skills see 2 numbers"),
    ],
)
def test_parts_that_an_environment_has_not_are_named(observed, dim, words):
    with pytest.raises(CheckpointError, match=words):
        SkillEnv(GoalEnv(), skill_model(observed=observed, observation_dim=dim))


def test_an_observation_that_is_no_vector_is_refused_by_both_wrappers():
    odd = gym.wrappers.ReshapeObservation(CounterEnv(), (2, 1))
    for wrap in (lambda: SkillEnv(odd, skill_model()), lambda: SkillVectorEnv([lambda: odd], skill_model())):
        with pytest.raises(UserError, match="skills need a one-dimensional Box, or a Dict of them"):
            wrap()
