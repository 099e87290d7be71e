"""Devices by name, what moves to them and what comes back. That every learner does: tests/contracts/test_learners.py."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import nn

from skillmeta.config import build
from skillmeta.errors import ConfigError
from skillmeta.nn.optimizers import adam
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.programs.train import train
from skillmeta.programs.train_config import train_config
from skillmeta.run.device import CPU, device_of, move, placed
from tests.elsewhere import ELSEWHERE, Elsewhere, elsewhere
from tests.goldens.cases import META

CUDA = mock.patch.multiple(
    "torch.accelerator", current_accelerator=lambda check_available: torch.device("cuda"), device_count=lambda: 2
)


def test_auto_is_an_accelerator_where_there_is_one():
    with mock.patch("torch.accelerator.current_accelerator", return_value=None):
        assert device_of("auto") == device_of("cpu") == CPU
    with CUDA, torch.backends.cudnn.flags():
        assert [str(device_of(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
            "cuda:0", "cuda:0", "cuda:1", "cpu"
        ]  # fmt: skip
        assert not torch.backends.cudnn.allow_tf32  # the same numbers, up to float32 rounding


def test_a_device_that_is_not_there_is_refused_before_the_folder_is_taken(tmp_path):
    with pytest.raises(
        ConfigError, match=r"device is 'mps'; .* this machine has 2 of type cuda; set device to auto or cpu"
    ):
        with CUDA:
            device_of("mps")
    with pytest.raises(ConfigError, match="'cuda:2'; .* has 2 of type cuda"), CUDA:
        device_of("cuda:2")
    with mock.patch("torch.accelerator.current_accelerator", return_value=None):
        for begin in (
            lambda out: train(replace(train_config(META["rl2"], "meta-train"), device="cuda"), out, quiet=True),
            lambda out: pretrain(build(PretrainConfig, {"device": "cuda:1"}), out, quiet=True),
        ):
            with pytest.raises(
                ConfigError, match=r"device is 'cuda.*'; .* this machine has none; set device to auto or cpu"
            ):
                begin(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:1000", "CPU", "mps:0", ""])
def test_only_names_of_devices_are_taken(name):
    with pytest.raises(
        ConfigError, match=r"device is .*; choose auto, cpu, mps, cuda or one of cuda:0, cuda:1, \.\.\."
    ):
        train_config({"device": name})


def test_a_run_may_continue_on_another_device(tmp_path):
    config = train_config({**META["rl2"], "env_steps": 30}, "meta-train")
    result = train(config, tmp_path, quiet=True, page=False)
    assert result is not None and "device" not in result
    with mock.patch("torch.accelerator.current_accelerator", return_value=None):
        assert train(replace(config, device="auto"), tmp_path, quiet=True, page=False) == result


def test_what_is_moved_is_moved_for_everyone_who_holds_it():
    network, alone, count = nn.GRU(2, 3), torch.ones(2), torch.ones(1, dtype=torch.int64)
    optimizer = adam([*network.parameters(), alone], 0.1)
    with elsewhere():
        move({"network": network, "alone": [alone], "count": count, "optimizer": optimizer}, ELSEWHERE)
        held = optimizer.param_groups[0]["params"]
        assert all(isinstance(one, Elsewhere) for one in held) and held[-1] is alone
        alone.grad = torch.ones_like(alone)
        optimizer.step()
        assert alone.tolist() == pytest.approx([0.9, 0.9])
    assert count.device == CPU


def test_what_is_placed_is_itself_or_a_copy_that_shares_nothing():
    class Holder:
        def __init__(self) -> None:
            self.network = nn.GRU(2, 3).requires_grad_(False)
            self.again, self.act = [self.network], self.network.forward
            self.bound, self.made = torch.ones(2), (lambda x: x)

    one = Holder()
    assert placed(one, CPU) is one
    with elsewhere():
        other = placed(one, ELSEWHERE)
        assert other.network is other.again[0] is other.act.__self__ and other.made is one.made
        assert all(isinstance(part, nn.Parameter) and not part.requires_grad for part in other.network.parameters())
        seen = torch.randn(5, 2)
        wanted = one.network(seen)[0]
        assert other.act(seen.to(ELSEWHERE))[0].cpu().numpy() == pytest.approx(wanted.numpy(), abs=1e-6)
        other.bound.zero_()
        back = placed(other, CPU)
    assert one.bound.tolist() == [1, 1] and back.bound.tolist() == [0, 0] and torch.equal(back.act(seen)[0], wanted)


def test_this_second_device_refuses_to_meet_the_first():
    with elsewhere():
        there = torch.ones(2, device=ELSEWHERE)
        assert (there * torch.tensor(2.0)).cpu().tolist() == [2, 2]  # a number may come from the CPU
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(2)
        with pytest.raises(RuntimeError, match="not supported"):
            there.numpy()
