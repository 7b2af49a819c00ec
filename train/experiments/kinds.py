"""The kinds of experiments. A new kind is a module with a ``Kind``, and one entry here."""

from __future__ import annotations

from lladav.config.introspection import choices_hint
from lladav.errors import UserError
from train.experiments.accuracy import ACCURACY
from train.experiments.attention import ATTENTION
from train.experiments.benchmark_tasks import REFRESH_TASKS
from train.experiments.kind import Kind, Measurement, Subject
from train.experiments.refresh import REFRESH
from train.experiments.repetition import REPETITION
from train.experiments.scaling import SCALING
from train.experiments.structured import STRUCTURED

KINDS: dict[str, Kind] = {
    "accuracy": ACCURACY,
    "attention": ATTENTION,
    "refresh": REFRESH,
    "refresh_tasks": REFRESH_TASKS,
    "repetition": REPETITION,
    "scaling": SCALING,
    "structured": STRUCTURED,
}


def kind_named(name: str) -> Kind:
    """The kind; raises ``UserError`` if there is none of this name."""
    if name not in KINDS:
        raise UserError(f"experiment.kind={name}: no such kind{choices_hint(name, KINDS)}")
    return KINDS[name]


def measure(kind: str, subject: Subject) -> Measurement:
    """Measure a trial in this process."""
    import torch

    if subject.config.cluster.threads_per_worker:
        torch.set_num_threads(subject.config.cluster.threads_per_worker)
    return kind_named(kind).measure(subject)
