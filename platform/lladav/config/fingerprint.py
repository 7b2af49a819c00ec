"""What makes two runs the same: a hash over the settings that change meaning, and what differs between two.

A key counts unless it is listed as immaterial, so that a run that goes on never silently ignores a new key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any, NamedTuple

from lladav.config.schema import Config
from lladav.errors import UserError

IMMATERIAL = {
    "stage.samples": "a note about the published data",
    "stage.ablation": "only chooses what stage=all runs",
    "model.images.inference_frames": "only inference reads it",
    "model.tokenizer": "a place; what it must hold is told by model.tokens",
    "data.root": "a place",
    "data.rescale": "already part of the stage",
    "data.bad_sample_budget": "only decides when a run gives up",
    "data.tasks": "speed",
    "data.prefetch": "speed",
    "cluster": "where and on how much the run happens, not what it computes",
    "train.run": "a name",
    "train.storage": "a place",
    "train.scratch": "a place",
    "train.micro_batch": "how a global batch is cut; the batch itself stays",
    "train.activation_checkpointing": "memory",
    "train.loss_chunk": "memory",
    "train.persistence_threshold": "memory",
    "train.checkpoint_every": "bookkeeping",
    "train.keep_checkpoints": "bookkeeping",
    "train.log_every": "bookkeeping",
}
"""Keys (or whole sections) that may change while a run goes on, and why. All others are its identity."""


class Difference(NamedTuple):
    """A key whose values differ between two configs."""

    key: str
    was: Any
    now: Any


def identity(config: Config) -> str:
    """Short hash over every setting that changes what a run computes (all but ``IMMATERIAL``)."""
    text = json.dumps(_material(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(started: Config, now: Config) -> list[Difference]:
    """Settings that change meaning and differ, in the order of the schema."""
    was, new = _material(started), _material(now)
    return [Difference(k, was.get(k), new.get(k)) for k in {**was, **new} if was.get(k) != new.get(k)]


def check_unchanged(run: str, started: Config, now: Config) -> None:
    """Raise ``UserError`` if ``run`` was started with settings of another meaning."""
    changed = differences(started, now)
    if changed:
        key, was, new = changed[0]
        more = f" (and {', '.join(d.key for d in changed[1:4])})" if len(changed) > 1 else ""
        raise UserError(
            f"run {run} was started with {key}={format_value(was)}, now {format_value(new)}{more}; "
            "take the old value or train.run=<new name>"
        )


def _material(config: Config) -> dict[str, Any]:
    """The flat settings that are part of a run's identity; sources that the stage does not use are not."""
    tree = asdict(config)
    tree["data"]["sources"] = {n: s for n, s in tree["data"]["sources"].items() if n in config.stage.sources}
    return {key: value for key, value in flatten(tree).items() if not _is_immaterial(key)}


def _is_immaterial(key: str) -> bool:
    parts = key.split(".")
    return any(".".join(parts[:n]) in IMMATERIAL for n in range(1, len(parts) + 1))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys; enums become their names."""
    result: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        result |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: _plain_value(value)}
    return result


def _plain_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    return [_plain_value(v) for v in value] if isinstance(value, list) else value


def format_value(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, list):
        return f"[{','.join(format_value(v) for v in value)}]"
    return "null" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)
