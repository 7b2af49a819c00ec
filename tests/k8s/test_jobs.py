"""Jobs generated from conf: one per stage, restartable, and in files that are up to date."""

from __future__ import annotations

import shlex

import pytest

from k8s.jobs import PROFILES, jobs, text
from k8s.manifests import FOLDER, Resource, of_kind
from lladav.config.cli import key_values
from lladav.config.loader import curriculum, load, stages_of
from lladav.config.schema import Config
from serve.offline.settings import load_batch


def config_of(job: Resource) -> Config:
    """The settings in a job's command."""
    python, entry, *overrides = shlex.split(job["spec"]["entrypoint"])
    assert (python, entry) == ("python", "train/run.py")
    return load(overrides)


def stages(resources: list[Resource]) -> list[Resource]:
    """The jobs that train."""
    return [job for job in of_kind(resources, "RayJob") if job["metadata"]["name"] != "lladav-batch"]


@pytest.mark.parametrize("overlay", PROFILES)
def test_every_stage_that_the_data_has_gets_a_job(overlay: str) -> None:
    configs = [config_of(job) for job in stages([*jobs(PROFILES[overlay])])]
    assert [config.stage.name for config in configs] == stages_of(configs[0].data.name)


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
        assert spec["activeDeadlineSeconds"] >= 6 * 3600
    for job in stages(overlays[overlay]):
        assert config_of(job).train.storage.startswith("/mnt/shared/"), "a retry needs the checkpoints"


def test_the_export_uses_the_last_stage_of_the_curriculum(overlays: dict[str, list[Resource]]) -> None:
    for overlay in PROFILES:
        jobs_ = of_kind(overlays[overlay], "Job")
        [export] = [job for job in jobs_ if job["metadata"]["name"] == "lladav-export"]
        command = export["spec"]["template"]["spec"]["containers"][0]["command"]
        data = config_of(stages(overlays[overlay])[0]).data.name
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
