"""Physics against Gymnasium's own environments, rewards against formulas written here from the papers."""

from __future__ import annotations

import gymnasium
import mujoco
import numpy as np
import pytest

from skillmeta.tasks import ant, half_cheetah, humanoid, random_params
from skillmeta.tasks.locomotion import LocomotionEnv
from tests.tasks.golden import family_of

BARE = [
    ("cheetah_vel", "HalfCheetah-v5", {}),
    ("ant_dir", "Ant-v5", {"include_cfrc_ext_in_observation": False}),
    ("ant_goal", "Ant-v5", {"exclude_current_positions_from_observation": False}),
    ("humanoid_dir", "Humanoid-v5", {}),
]


def in_task(preset: str, index: int = 0, split: str = "test") -> tuple[LocomotionEnv, object]:
    family = family_of(preset)
    env, task = family.make_env(), family.tasks(split)[index]
    assert isinstance(env, LocomotionEnv)
    env.reset(seed=0, options={"task": task})
    return env, task


@pytest.mark.parametrize(("preset", "bare_id", "kwargs"), BARE)
def test_physics_and_observations_are_gymnasiums(preset, bare_id, kwargs):
    ours, _ = in_task(preset)
    bare = gymnasium.make(bare_id, **kwargs).unwrapped
    ours_first, theirs_first = ours.reset(seed=5)[0], bare.reset(seed=5)[0]
    width = len(theirs_first)
    assert np.array_equal(ours_first[:width], theirs_first.astype(np.float32))  # the same draws, bit for bit
    generator = np.random.default_rng(0)
    for _ in range(20):
        action = generator.uniform(bare.action_space.low, bare.action_space.high).astype(np.float32)
        a, b = ours.step(action)[0], bare.step(action)[0]
        assert np.array_equal(a[:width], b.astype(np.float32))
        assert np.array_equal(ours.data.qpos, bare.data.qpos) and np.array_equal(ours.data.qvel, bare.data.qvel)


@pytest.mark.parametrize(
    ("robot", "bare_id", "timestep"),
    [("walker", "Walker2d-v5", 0.002), ("hopper", "Hopper-v5", 0.002), ("half_cheetah", "HalfCheetah-v5", 0.01)],
)
def test_an_unchanged_body_is_gymnasiums(robot, bare_id, timestep):
    config = random_params.Config(robot=robot, timestep=timestep)
    model = random_params.base(config)
    nobody = random_params.Body(
        (0.0,) * model.nbody, (0.0,) * 3 * model.nbody, (0.0,) * 3 * model.ngeom, (0.0,) * model.nv
    )
    env, bare = random_params.family(config).make_env(), gymnasium.make(bare_id).unwrapped
    assert np.array_equal(env.reset(seed=1, options={"task": nobody})[0], bare.reset(seed=1)[0].astype(np.float32))
    generator = np.random.default_rng(0)
    for _ in range(20):
        action = generator.uniform(-1, 1, bare.action_space.shape).astype(np.float32)
        (a, reward, ended, _, _), (b, paid, theirs, _, _) = env.step(action), bare.step(action)
        assert np.array_equal(a, b.astype(np.float32)) and ended == theirs
        assert reward == pytest.approx(paid, abs=1e-5)


def test_a_standing_robot_has_the_return_that_pearls_test_set_gives_it():
    """Mean of the 30 test velocities is 1.418, so 200 steps at a standstill cost 283.6: the notes' -284."""
    family = family_of("cheetah_vel")
    assert [round(task.velocity, 4) for task in family.tasks("train")[:5]] == [0.7861, 0.4761, 0.8344, 1.378, 0.963]
    env = family.make_env()
    env.frame_skip = 0  # nothing moves
    returns = []
    for task in family.tasks("test"):
        env.reset(seed=0, options={"task": task})
        returns.append(sum(env.step(np.zeros(6, np.float32))[1] for _ in range(200)))
    exact = -200 * np.random.RandomState(1337).uniform(0, 3, 130)[100:].mean()
    assert np.mean(returns) == pytest.approx(exact, abs=1e-9) and round(np.mean(returns)) == -284


def test_cheetah_rewards():
    rng = np.random.default_rng(1)
    for preset in ("cheetah_vel", "cheetah_vel_sparse", "cheetah_dir", "cheetah_negated"):
        env, task = in_task(preset, index=1)
        seen = set()
        for _ in range(30):
            action = rng.uniform(-1, 1, 6).astype(np.float32)
            x = env.data.qpos[0]
            _, reward, _, _, info = env.step(action)
            v = (env.data.qpos[0] - x) / 0.05
            cost = 0.05 * sum(float(a) ** 2 for a in action)
            if preset == "cheetah_vel":
                wanted, success = -abs(v - task.velocity) - cost, abs(v - task.velocity) <= 0.5
            elif preset == "cheetah_vel_sparse":
                near = abs(v - task.velocity) <= 0.5
                wanted, success = (2 - abs(v - task.velocity) if near else 0) - cost, near
            elif preset == "cheetah_dir":
                wanted, success = -v - cost, -v >= 1
            else:
                wanted, success = v - cost, v >= 1
            assert reward == pytest.approx(wanted, abs=1e-6) and info["success"] == success
            seen.add(success)


def test_a_sparse_direction_pays_far_from_the_start_alone():
    env, task = in_task("cheetah_dir_sparse", index=1)
    paid = {}
    for x in (-4.5, -5.2, 5.2):
        env.reset(seed=0)
        env.data.qpos[0] = x
        env.data.qvel[0] = -3.0
        _, reward, _, _, info = env.step(np.zeros(6, np.float32))
        paid[x] = (reward, info["x_velocity"])
    assert paid[-4.5][0] == 0
    for x in (-5.2, 5.2):
        reward, velocity = paid[x]
        assert velocity < -2 and reward == pytest.approx(-velocity)


def test_bodies_out_of_distribution_differ_further():
    family = family_of("cheetah_params_ood")
    largest = {
        name: max(np.abs(family.features(task)).max() for task in family.tasks(name)) for name in ("train", "test")
    }
    assert 1.4 < largest["train"] <= 1.5 and 2.8 < largest["test"] <= 3.0
    assert "(tests: U(-3, 3))" in family.definition and "never an early end" in family.definition


def test_negated_motors_do_the_opposite():
    env, task = in_task("cheetah_negated")
    plain, _ = in_task("cheetah_negated", split="train")  # the first one negates nothing
    action = np.random.default_rng(0).uniform(-1, 1, 6).astype(np.float32)
    turned = action.copy()
    turned[list(task.motors)] *= -1
    assert np.array_equal(env.step(action)[0], plain.step(turned)[0])
    assert not np.array_equal(env.step(action)[0], plain.step(action)[0])


def test_ant_rewards():
    rng = np.random.default_rng(2)
    for preset in ("ant_dir", "ant_forward_back", "ant_goal", "ant_goal_sparse"):
        env, task = in_task(preset, index=1)
        touched = 0.0
        for _ in range(30):
            action = rng.uniform(-1, 1, 8).astype(np.float32)
            before = env.data.body("torso").xpos[:2].copy()
            _, reward, ended, _, info = env.step(action)
            after = env.data.body("torso").xpos[:2]
            squares = float((action.astype(float) ** 2).sum())
            force = 0.5e-3 * float((np.clip(env.data.cfrc_ext, -1, 1) ** 2).sum())
            touched += force
            if "goal" in preset:
                gap = after - [task.x, task.y]
                far = float(np.linalg.norm(gap))
                wanted = -abs(gap).sum() if preset == "ant_goal" else (1 - far if far <= 0.8 else 0.0)
                wanted -= 0.1 * squares + force
                assert not ended and info["success"] == (far <= (0.5 if preset == "ant_goal" else 0.8))
            else:
                speed = (after - before) / 0.05 @ [np.cos(task.angle), np.sin(task.angle)]
                wanted = speed - 0.5 * squares - force + 1
                assert ended == (not 0.2 <= env.data.qpos[2] <= 1.0)
            assert reward == pytest.approx(wanted, abs=1e-6)
        assert touched > 0  # the forces were computed, which MuJoCo does only when it is asked
        if preset == "ant_goal":
            env.data.qpos[:2] = task.x, task.y
            mujoco.mj_forward(env.model, env.data)
            assert env.step(np.zeros(8, np.float32))[4]["success"]


def test_without_contact_cost_the_forces_are_free():
    env = ant.family(ant.Config(contact_cost=False)).make_env()
    env.reset(seed=0)
    motion_reward = env.step(np.zeros(8, np.float32))
    assert np.array_equal(env.data.cfrc_ext, np.zeros_like(env.data.cfrc_ext)) and np.isfinite(motion_reward[1])


def test_pearls_fixed_ant_tasks():
    legacy = np.random.RandomState(1337)
    angles = legacy.random_sample(180) * 2 * np.pi
    radii = 3 * legacy.random_sample(180) ** 0.5
    tasks = family_of("ant_goal").tasks("train")
    assert np.allclose([(t.x, t.y) for t in tasks], np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)[:150])
    turns = [task.angle / (2 * np.pi) for task in family_of("ant_dir_ood").tasks("test")]
    assert min(turns) >= 0.75 and max(task.angle for task in family_of("ant_dir_ood").tasks("train")) <= 1.5 * np.pi


def test_a_changed_leg_is_as_heavy_and_long_as_the_task_says():
    plain = ant.changed_leg(ant.Leg(1, 1.0, 1.0))
    original = mujoco.MjModel.from_xml_path(ant.assets("ant.xml"))
    assert np.allclose(plain.body_mass, original.body_mass) and np.allclose(plain.geom_size, original.geom_size)
    changed = ant.changed_leg(ant.Leg(1, 1.5, 0.5))
    own = [original.geom(name).bodyid[0] for name in ("aux_2_geom", "right_leg_geom", "right_ankle_geom")]
    for body in range(original.nbody):
        factor = 1.5 if body in own else 1.0
        assert changed.body_mass[body] == pytest.approx(factor * original.body_mass[body])
    for name in ("aux_2_geom", "right_leg_geom", "right_ankle_geom"):
        assert changed.geom(name).size[1] == pytest.approx(0.5 * original.geom(name).size[1])
    assert np.allclose(changed.body("aux_2").pos, 0.5 * original.body("aux_2").pos)
    family = family_of("ant_leg")
    env, moved = family.make_env(), []
    for task in (family.tasks("train")[0], family.tasks("test")[0], family.tasks("train")[0]):
        env.reset(seed=0, options={"task": task})
        moved.append(env.step(np.ones(8, np.float32))[0])
    assert np.array_equal(moved[0], moved[2]) and not np.array_equal(moved[0], moved[1])


def test_humanoid_reward():
    env, task = in_task("humanoid_dir")
    mass = env.model.body_mass
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-0.4, 0.4, 17).astype(np.float32)
        before = (mass[:, None] * env.data.xipos).sum(0) / mass.sum()
        _, reward, ended, _, _ = env.step(action)
        after = (mass[:, None] * env.data.xipos).sum(0) / mass.sum()
        moved = (after - before)[:2] @ [np.cos(task.angle), np.sin(task.angle)]
        impact = min(0.5e-6 * (env.data.cfrc_ext**2).sum(), 10)
        wanted = 0.25 * moved / 0.003 - 0.1 * (action.astype(float) ** 2).sum() - impact + 5
        assert reward == pytest.approx(wanted, rel=1e-6)
        assert ended == (not 1 < env.data.qpos[2] < 2)


@pytest.mark.parametrize("preset", ["walker_params", "hopper_params"])
def test_random_bodies(preset):
    family = family_of(preset)
    assert len(family.features(family.tasks("train")[0])) == (41 if preset == "hopper_params" else 65)
    env, task = in_task(preset)
    original = mujoco.MjModel.from_xml_path(
        ant.assets("hopper.xml" if preset == "hopper_params" else "walker2d_v5.xml")
    )
    assert np.allclose(env.model.body_mass, original.body_mass * 1.5 ** np.array(task.mass))
    assert np.allclose(env.model.dof_damping, original.dof_damping * 1.3 ** np.array(task.damping))
    assert np.allclose(env.model.geom_friction.ravel(), original.geom_friction.ravel() * 1.5 ** np.array(task.friction))
    assert env.dt == pytest.approx(0.016) and env.model.body_invweight0 == pytest.approx(original.body_invweight0)
    action = np.full(env.action_space.shape, 0.5, np.float32)
    x = env.data.qpos[0]
    _, reward, _, _, _ = env.step(action)
    assert reward == pytest.approx((env.data.qpos[0] - x) / 0.016 + 1 - 1e-3 * 0.25 * len(action), abs=1e-6)
    constant = random_params.changed(
        task, random_params.Config(robot="hopper" if "hopper" in preset else "walker", set_const=True)
    )
    assert not np.allclose(constant.body_invweight0, original.body_invweight0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: half_cheetah.Config(goal="up"), "choose velocity, direction or negated"),
        (lambda: half_cheetah.Config(train_range=[3.0, 0.0]), "the lower one first"),
        (lambda: ant.Config(radius=0), "above 0"),
        (lambda: humanoid.Config(max_episode_steps=0), "at least 1"),
        (lambda: random_params.Config(robot="snake"), "walker, hopper or half_cheetah"),
    ],
)
def test_impossible_configs_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
