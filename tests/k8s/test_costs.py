"""The cost formulas against known figures of the 8B model."""

from __future__ import annotations

import pytest

from k8s.costs import GIB, cost, sample_tokens, stages, with_table
from k8s.manifests import FOLDER, Resource, of_kind
from lladav.config.loader import curriculum, load, stages_of
from lladav.config.schema import Config, Precision
from lladav.costs.memory import gpu_memory, parameter_counts
from lladav.costs.sizes import staged_bytes


def config(stage: str, *overrides: str) -> Config:
    return load([f"stage={stage}", "model=llada_v_8b", "data=llava", "cluster=kuberay", *overrides])


def test_parameters_are_those_of_the_published_towers() -> None:
    counted = parameter_counts(config("si"))
    assert counted.all == pytest.approx(8.02e9 + 0.41e9 + 0.02e9, rel=0.02)
    assert counted.trained == pytest.approx(counted.all, rel=1e-6)
    projector = 1152 * 4096 + 4096**2 + 2 * 4096
    assert parameter_counts(config("pretrain")).trained == pytest.approx(projector, rel=0.01)


def test_a_view_is_729_tokens() -> None:
    assert sample_tokens(config("pretrain")) == 729 + 30
    assert sample_tokens(config("si")) == 4 * 729 + 300


def test_more_gpus_need_less_memory_each_and_less_time() -> None:
    eight, sixteen = cost(config("si")), cost(config("si", "cluster.workers=16"))
    assert sixteen.gpu_gib < eight.gpu_gib
    assert sixteen.hours == pytest.approx(eight.hours / 2)
    assert sixteen.gpu_hours == pytest.approx(eight.gpu_hours)


def test_sharded_states_take_18_bytes_per_trained_parameter() -> None:
    """A bf16 weight, an fp32 gradient, an fp32 weight and two moments."""
    counted = parameter_counts(config("si"))
    two, four = (gpu_memory(config("si", f"cluster.workers={n}")).total for n in (2, 4))
    assert two - four == pytest.approx(18 * counted.all / 4)


def test_a_checkpoint_holds_fp32_states_and_bf16_weights() -> None:
    si = cost(config("si"))
    assert si.checkpoint_gib * GIB == pytest.approx(14 * parameter_counts(config("si")).all)
    pretrain, counted = cost(config("pretrain")), parameter_counts(config("pretrain"))
    assert pretrain.checkpoint_gib * GIB == pytest.approx(2 * counted.all + 12 * counted.trained)
    assert si.storage_gib == pytest.approx(3 * si.checkpoint_gib)


def test_stages_are_those_of_the_curriculum_and_fit_the_gpus() -> None:
    found = [*stages()]
    assert [each.stage for each in found] == [each for each in curriculum() if each in stages_of("llava")]
    assert all(each.gpu_gib < 80 for each in found)


def test_the_table_in_the_readme_is_up_to_date() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme), "conf has changed: run python -m k8s.jobs"


@pytest.mark.parametrize(("overlay", "cluster"), [("gpu", "kuberay"), ("spot", "spot")])
def test_pods_have_scratch_space_for_uploading_a_checkpoint(
    overlays: dict[str, list[Resource]], overlay: str, cluster: str
) -> None:
    settings = config("si", f"cluster={cluster}")
    workers = settings.cluster.min_workers or settings.cluster.workers
    counted = parameter_counts(settings)
    needed = staged_bytes(counted.all, counted.trained, Precision.bf16, workers, ranks=1)
    for job in of_kind(overlays[overlay], "RayJob"):
        (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
        assert int(requests["ephemeral-storage"].removesuffix("Gi")) * GIB > needed
