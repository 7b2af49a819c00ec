"""The message from the driver to a training worker, and the worker's reply.

This module imports neither torch nor DeepSpeed, which take ten seconds. The driver and Ray Train's controller
import it; only the workers import the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from data.pipeline.validation import ValidationSet
from lladav.config.schema import Config

DATASET = "train"
"""Key of the training data among Ray Train's data sets."""


@dataclass(frozen=True)
class Job:
    """What to train."""

    config: Config
    manifest: str
    """Folder of the manifest."""
    total_steps: int
    start_from: str | None
    """Weights in the LLaDA-V layout that a new run starts from; None: the configured towers."""
    held_out: ValidationSet | None = None
    """The samples of validations; None without any."""
    tracker_variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the driver that configure trackers."""
    token: str | None = None
    """Token of the driver's claim on the run's folder. Checkpoints count only while the claim holds."""


@dataclass(frozen=True)
class TrainOutcome:
    """How a worker group ended, the same on all ranks. A rank that fails alone raises instead."""

    failure: str | None = None
    """Why the run cannot continue, in one line."""
    preempted: bool = False
    """A node is about to be taken away; a checkpoint is saved, and the workers are to restart elsewhere."""
