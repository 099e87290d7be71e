"""Gymnasium's environments with numbers of theirs varied: by keyword or by attribute the physics is that of the task's name."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from skillmeta.errors import ConfigError
from skillmeta.tasks.gym import Config, Variation, family
from tests.envs import users

ACTIONS = np.random.default_rng(0).integers(0, 2, 12)


def path(env: gymnasium.Env, **options: Any) -> np.ndarray:
    """Observations of some steps of CartPole."""
    first = env.reset(seed=1, options=options or None)[0]
    return np.array([first, *(env.step(int(action))[0] for action in ACTIONS)])


@pytest.mark.parametrize(("name", "value"), [("masscart", 5.0), ("masspole", 1.0), ("length", 1.5), ("gravity", 20.0)])
def test_what_a_constructor_computes_from_a_varied_attribute_is_right(name, value):
    """CartPole computes total_mass and polemass_length once."""
    right = gymnasium.make("CartPole-v1")
    bare: Any = right.unwrapped
    setattr(bare, name, value)
    bare.total_mass, bare.polemass_length = bare.masspole + bare.masscart, bare.masspole * bare.length
    env = family(Config(id="CartPole-v1", vary={name: [0.1, 30.0]})).make_env()
    ours = path(env, task=Variation("CartPole-v1", ((name, value),)))
    np.testing.assert_array_equal(ours, path(right))
    plain = path(gymnasium.make("CartPole-v1"))
    assert np.abs(ours - plain).max() > 0.01
    np.testing.assert_array_equal(path(env, task=Variation("CartPole-v1")), plain)  # and back again


def test_a_keyword_of_the_constructor_comes_before_an_attribute():
    """Of the same name, which is set but not used."""
    users.register()
    env = family(Config(id="users/Scaled-v0", vary={"scale": [1.0, 9.0]})).make_env()
    env.reset(seed=0, options={"task": Variation("users/Scaled-v0", (("scale", 3.0),))})
    assert env.step(np.zeros(1, np.float32))[1] == 3.0


@pytest.mark.parametrize("kind", [users.Scaled, lambda **keywords: users.Scaled(**keywords)], ids=["class", "function"])
def test_an_attribute_may_be_varied_however_the_environment_is_made(kind):
    users.register(Made=kind)
    made = family(Config(id="users/Made-v0", vary={"added": [1.0, 9.0]}))
    made.check()
    env = made.make_env()
    env.reset(seed=0, options={"task": Variation("users/Made-v0", (("added", 4.0),))})
    assert env.step(np.zeros(1, np.float32))[1] == 5.0


@pytest.mark.parametrize(
    ("vary", "options", "sentence"),
    [
        ({"unused": [1.0, 2.0]}, {}, r"vary.unused has no effect on users/Scaled-v0 in 200 steps.*check_vary=false"),
        ({"nothing": [1.0, 2.0]}, {}, "vary.nothing: users/Scaled-v0 has no keyword and no attribute of this name"),
        ({"size": [2.0, 3.0]}, {}, "vary.size: 2 gives users/Scaled-v0 another observation space"),
        ({"unused": [1.0, 2.0]}, {"check_vary": False}, None),
        ({"added": [0.0, 2.0]}, {}, None),  # one end of the range is what it is anyway
        ({"late": [0.0, 1.0]}, {}, None),  # has an effect after some steps
    ],
)
def test_a_number_that_changes_nothing_is_refused(vary, options, sentence):
    users.register()
    made = family(Config(id="users/Scaled-v0", vary=vary, **options))
    if sentence is None:
        made.check()
    else:
        with pytest.raises(ConfigError, match=sentence):
            made.check()


def test_the_time_limit_is_that_of_the_environment_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "module_of_an_id.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Named-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=1500)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert family(Config(id="module_of_an_id:Named-v0")).max_episode_steps == 1500
    assert family(Config(id="Pendulum")).max_episode_steps == 200 == family(Config(id="Pendulum-v1")).max_episode_steps
    with pytest.raises(ConfigError, match="task.options.id is 'no_such_module'; there is no module"):
        family(Config(id="no_such_module:Named-v0"))
