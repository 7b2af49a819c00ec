"""The formulas of costs against what is known of the 8B model."""

from __future__ import annotations

import pytest

from k8s.costs import GIB, cost, gpu_bytes, parameters_of, sample_tokens, stages
from lladav.config import load
from lladav.schema import Config


def config(stage: str, *overrides: str) -> Config:
    return load([f"stage={stage}", "model=llada_v_8b", "data=llava", "cluster=kuberay", *overrides])


def test_parameters_are_those_of_the_published_towers() -> None:
    counted = parameters_of(config("si"))
    assert counted.all == pytest.approx(8.02e9 + 0.41e9 + 0.02e9, rel=0.02)
    assert counted.trained == pytest.approx(counted.all, rel=1e-6)
    projector = 1152 * 4096 + 4096**2 + 2 * 4096
    assert parameters_of(config("pretrain")).trained == pytest.approx(projector, rel=0.01)


def test_a_view_is_729_tokens() -> None:
    assert sample_tokens(config("pretrain")) == 729 + 30
    assert sample_tokens(config("si")) == 4 * 729 + 300


def test_more_gpus_hold_less_each_and_take_less_time() -> None:
    eight, sixteen = cost(config("si")), cost(config("si", "cluster.workers=16"))
    assert sixteen.gpu_gib < eight.gpu_gib
    assert sixteen.hours == pytest.approx(eight.hours / 2)
    assert sixteen.gpu_hours == pytest.approx(eight.gpu_hours)


def test_sharded_states_are_eighteen_bytes_of_a_trained_parameter() -> None:
    """A bf16 weight, an fp32 gradient, an fp32 weight and two moments."""
    settings = config("si")
    counted = parameters_of(settings)
    one, two = (gpu_bytes(config("si", f"cluster.workers={n}"), counted) for n in (1, 2))
    assert one - two == pytest.approx(18 * counted.all / 2)


def test_a_checkpoint_holds_fp32_states_and_bf16_weights() -> None:
    si = cost(config("si"))
    assert si.checkpoint_gib * GIB == pytest.approx(14 * parameters_of(config("si")).all)
    pretrain, counted = cost(config("pretrain")), parameters_of(config("pretrain"))
    assert pretrain.checkpoint_gib * GIB == pytest.approx(2 * counted.all + 12 * counted.trained)
    assert si.storage_gib == pytest.approx(3 * si.checkpoint_gib)


def test_stages_are_those_of_the_curriculum_and_fit_the_gpus() -> None:
    found = [*stages()]
    assert [each.stage for each in found] == ["pretrain", "si", "ov", "vw", "ov_vw"]
    assert all(each.gpu_gib < 80 for each in found)
