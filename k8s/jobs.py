"""Generates the jobs of each overlay from ``conf``: all stages in one job, one per stage, and others.

    python -m k8s.jobs

writes ``k8s/overlays/*/jobs.yaml`` and the table of costs in ``k8s/README.md``. The component ``training``
has the Ray cluster of the stages and of batch inference.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import yaml  # noqa: E402 - the path comes first

from k8s.costs import cost, with_table  # noqa: E402
from lladav.config.loader import (  # noqa: E402
    ALL_STAGES,
    CONF,
    curriculum,
    expand_stages,
    load,
    run_name,
    stages_of,
)
from lladav.config.schema import Config  # noqa: E402

SHARED = "/mnt/shared"
BATCH_HOURS = 168
"""The deadline of batch inference, whose duration depends on its input."""
HEADER = "# Generated from conf by python -m k8s.jobs; change conf or k8s/jobs.py, not this file.\n"
TIMEOUT_FACTOR, MIN_TIMEOUT_HOURS = 3.0, 6.0
"""Hours that a stage may run: a multiple of the estimate of ``k8s.costs``, and a minimum."""
MAX_WAIT_HOURS = 72
"""Hours that a job may wait for nodes, on top of its running time: KubeRay's deadline includes the wait."""


@dataclass(frozen=True)
class Profile:
    """The training of an overlay: config groups, and settings on top of them."""

    groups: tuple[str, ...]
    settings: tuple[str, ...]
    model: str
    """Name of the exported model."""
    memory: str
    """Memory of the pods that prepare and export: they load the whole model."""
    batch: tuple[str, ...]
    """Settings of batch inference: a file of ``conf/serve``, and its engines."""
    prepare: tuple[str, ...] = ()
    """Command that creates the data and weights that the curriculum starts from."""


WEIGHTS = f"{SHARED}/weights"
PUBLISHED = (
    f"data.root={SHARED}/data",
    f"model.weights.language={WEIGHTS}/LLaDA-8B-Instruct",
    f"model.weights.vision={WEIGHTS}/siglip2-so400m-patch14-384",
    f"model.tokenizer={WEIGHTS}/LLaDA-8B-Instruct",
)
BUILT_IN = (
    f"data.root={SHARED}/digits",
    f"model.weights.language={SHARED}/towers/language",
    f"model.weights.vision={SHARED}/towers/vision",
    f"model.tokenizer={SHARED}/digits/tokenizer",
)
TINY = ("model=tiny", "data=digits")
ON_GPUS = ("config=gpu", "engine.max_replicas=8", "engine.cpus=8")
PROFILES = {
    "dev-cpu": Profile(
        (*TINY, "cluster=local"),
        (f"train.storage={SHARED}/runs", "train.micro_batch=32", *BUILT_IN),
        "llada-v-tiny",
        "4Gi",
        ("config=local",),
        prepare=("python", "train/towers.py", *TINY, *BUILT_IN),
    ),
    **{
        overlay: Profile(
            ("model=llada_v_8b", "data=llava", f"cluster={cluster}"), PUBLISHED, "llada-v-8b", "32Gi", ON_GPUS
        )
        for overlay, cluster in (("gpu", "kuberay"), ("spot", "spot"))
    },
}


def jobs(profile: Profile, conf: Path = CONF) -> Iterator[dict[str, Any]]:
    """All jobs of an overlay, in the order in which they run.

    There is a job for each stage whose sources the profile's data set has, and one for the whole curriculum
    if the data set has all of its stages.
    """
    settings = (*profile.groups, *profile.settings)
    if profile.prepare:
        yield plain_job("lladav-prepare", profile.prepare, profile.memory, suspend=False)
    stages = stages_of(load(settings, conf).data.name, conf)
    if set(curriculum(conf)) <= set(stages):
        yield training_job("curriculum", ALL_STAGES, settings, conf)
    for stage in stages:
        yield training_job(stage.replace("_", "-"), stage, settings, conf)
    last = [stage for stage in stages if stage in curriculum(conf)][-1]
    config = load((f"stage={last}", *settings), conf)
    run = (f"run={run_name(config)}", f"storage={config.train.storage}")
    export = ("python", "train/export.py", *run, f"out={SHARED}/models/{profile.model}")
    yield plain_job("lladav-export", export, profile.memory, suspend=True)
    yield batch_job(profile)


def batch_job(profile: Profile) -> dict[str, Any]:
    """The RayJob of batch inference with the exported model, on a cluster like that of the stages."""
    where = (f"input={SHARED}/batch/questions.parquet", f"output={SHARED}/batch/answers")
    model = f"model={SHARED}/models/{profile.model}"
    command = ("python", "serve/batch.py", *where, model, *profile.batch)
    return ray_job("lladav-batch", {"app.kubernetes.io/component": "batch"}, command, BATCH_HOURS)


def training_job(name: str, stage: str, settings: tuple[str, ...], conf: Path) -> dict[str, Any]:
    """The RayJob of a stage or of ``stage=all``; ``components/training`` adds its cluster."""
    overrides = (f"stage={stage}", *settings)
    configs = [load(each, conf) for each in expand_stages(overrides, conf)]
    labels = {"app.kubernetes.io/component": "training", "lladav/stage": stage}
    return ray_job(f"lladav-{name}", labels, ("python", "train/run.py", *overrides), max_hours(configs))


def ray_job(name: str, labels: dict[str, str], command: tuple[str, ...], hours: int) -> dict[str, Any]:
    """A RayJob that is ended after ``hours`` of running, not counting the wait for nodes."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "entrypoint": shlex.join(command),
            "preRunningDeadlineSeconds": MAX_WAIT_HOURS * 3600,
            "activeDeadlineSeconds": (MAX_WAIT_HOURS + hours) * 3600,
        },
    }


def max_hours(configs: Sequence[Config]) -> int:
    """The hours that stages may run."""
    return sum(math.ceil(max(MIN_TIMEOUT_HOURS, TIMEOUT_FACTOR * cost(each).hours)) for each in configs)


def plain_job(name: str, command: tuple[str, ...], memory: str, suspend: bool) -> dict[str, Any]:
    """A Job with one pod and without Ray."""
    limits = {"cpu": "2", "memory": memory}
    container = {
        "name": "lladav",
        "image": "lladav",
        "command": list(command),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": limits, "limits": limits},
        "volumeMounts": [{"name": "shared", "mountPath": SHARED}],
    }
    pod = {
        "restartPolicy": "Never",
        "priorityClassName": "lladav-training",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": "lladav-shared"}}],
    }
    labels = {"app.kubernetes.io/component": name.removeprefix("lladav-")}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"backoffLimit": 2, "ttlSecondsAfterFinished": 86400, "suspend": suspend, "template": template}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


def text(profile: Profile) -> str:
    """The text of a profile's ``jobs.yaml``."""
    return HEADER + yaml.dump_all(jobs(profile), Dumper=_Plain, sort_keys=False, width=110)


class _Plain(yaml.SafeDumper):
    """Writes repeated values in full, without anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


if __name__ == "__main__":
    for overlay, its_profile in PROFILES.items():
        (ROOT / "k8s" / "overlays" / overlay / "jobs.yaml").write_text(text(its_profile), encoding="utf-8")
    readme = ROOT / "k8s" / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
