"""What a Ray Train worker is asked to do.

Imports neither torch nor DeepSpeed, which take ten seconds: the driver and Ray Train's controller need the
job, only the workers need the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from lladav.schema import Config

DATASET = "train"


@dataclass(frozen=True)
class Job:
    """The settings, the folder of the manifest, and what follows from them."""

    config: Config
    manifest: str
    total_steps: int
    start_from: str | None


def train_worker(settings: dict[str, Job]) -> str | None:
    """Train the ``job`` until its last step; returns the line that says why, where it had to end early."""
    from train.loop import work

    return work(settings["job"])
