"""What a Ray Train worker is asked to do.

Imports neither torch nor DeepSpeed, which take ten seconds: the driver and Ray Train's controller need the
job, only the workers need the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from lladav.config.schema import Config

DATASET = "train"


@dataclass(frozen=True)
class Job:
    """The settings, the folder of the manifest, and what follows from them."""

    config: Config
    manifest: str
    total_steps: int
    start_from: str | None
    token: str | None = None
    """Of the driver's claim on the run's folder: a checkpoint counts only while the claim holds."""


@dataclass(frozen=True)
class Ended:
    """How an attempt ended, as all ranks agreed; a rank that fails alone raises instead."""

    failure: str | None = None
    """Why the run cannot go on, as one line."""
    preempted: bool = False
    """A node is about to be taken away: a checkpoint is saved, and the workers are to start elsewhere."""
