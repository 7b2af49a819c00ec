"""Jobs generated from conf: one per stage, restartable, and in files that are up to date."""

from __future__ import annotations

import shlex

import pytest

from k8s.costs import cost
from k8s.jobs import PROFILES, jobs, text
from k8s.manifests import FOLDER, Resource, of_kind, training_configs
from lladav.config.cli import key_values
from lladav.config.loader import curriculum, stages_of
from serve.offline.settings import load_batch


def stages(resources: list[Resource]) -> list[Resource]:
    """The jobs that train."""
    return [job for job in of_kind(resources, "RayJob") if training_configs(job)]


@pytest.mark.parametrize("overlay", PROFILES)
def test_every_stage_that_the_data_has_gets_a_job(overlay: str) -> None:
    whole, *single = map(training_configs, stages([*jobs(PROFILES[overlay])]))
    assert [config.stage.name for [config] in single] == stages_of(whole[0].data.name)
    assert [config.stage.name for config in whole] == curriculum()


@pytest.mark.parametrize("overlay", PROFILES)
def test_files_are_up_to_date(overlay: str) -> None:
    file = FOLDER / "overlays" / overlay / "jobs.yaml"
    generated = text(PROFILES[overlay])
    assert file.read_text(encoding="utf-8") == generated, "conf has changed: run python -m k8s.jobs"


@pytest.mark.parametrize("overlay", PROFILES)
def test_jobs_start_suspended_and_can_be_retried(overlays: dict[str, list[Resource]], overlay: str) -> None:
    for job in of_kind(overlays[overlay], "RayJob"):
        spec = job["spec"]
        assert spec["suspend"]
        assert spec["backoffLimit"] > 0
        assert spec["shutdownAfterJobFinishes"]
        assert spec["ttlSecondsAfterFinished"] > 0
    for job in stages(overlays[overlay]):
        config = training_configs(job)[0]
        assert config.train.storage.startswith("/mnt/shared/"), "a retry needs the checkpoints"


def test_the_export_uses_the_last_stage_of_the_curriculum(overlays: dict[str, list[Resource]]) -> None:
    for overlay in PROFILES:
        jobs_ = of_kind(overlays[overlay], "Job")
        [export] = [job for job in jobs_ if job["metadata"]["name"] == "lladav-export"]
        command = export["spec"]["template"]["spec"]["containers"][0]["command"]
        data = training_configs(stages(overlays[overlay])[0])[0].data.name
        last = [stage for stage in stages_of(data) if stage in curriculum()][-1]
        assert any(part.startswith(f"run={last}-") for part in command)
        assert export["spec"]["suspend"]


@pytest.mark.parametrize("overlay", PROFILES)
def test_batch_inference_uses_the_exported_model(overlays: dict[str, list[Resource]], overlay: str) -> None:
    [job] = [each for each in of_kind(overlays[overlay], "RayJob") if each not in stages(overlays[overlay])]
    python, entry, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, entry) == ("python", "serve/batch.py")
    settings = load_batch(key_values(arguments))
    assert settings.model == f"/mnt/shared/models/{PROFILES[overlay].model}"
    assert settings.output.startswith("/mnt/shared/"), "a retry resumes there"


def test_the_jobs_of_the_tiny_model_are_small(overlays: dict[str, list[Resource]]) -> None:
    for job in of_kind(overlays["dev-cpu"], "Job"):
        [container] = job["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}


def test_longer_stages_have_later_deadlines(overlays: dict[str, list[Resource]]) -> None:
    deadline = {
        j["metadata"]["name"]: j["spec"]["activeDeadlineSeconds"] for j in of_kind(overlays["gpu"], "RayJob")
    }
    assert deadline["lladav-pretrain"] < deadline["lladav-vw"] < deadline["lladav-si"]
    assert deadline["lladav-si"] < deadline["lladav-curriculum"]


def test_waiting_for_nodes_takes_nothing_of_the_time_to_run(job: Resource) -> None:
    """KubeRay's deadline starts before the wait, which ``preRunningDeadlineSeconds`` bounds."""
    [config] = training_configs(job)
    left = job["spec"]["activeDeadlineSeconds"] - job["spec"]["preRunningDeadlineSeconds"]
    assert left / 3600 == pytest.approx(3 * cost(config).hours, abs=1)
