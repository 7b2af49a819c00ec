"""Comparison of the settings of a run with those that it was started with.

Every key counts unless the schema declares it as non-semantic, so a resumed run never ignores a change of a
new key by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from lladav.config.introspection import all_keys, flatten, format_value
from lladav.config.schema import RELEASED, Config
from lladav.errors import UserError

NON_SEMANTIC_KEYS: Mapping[str, str] = {
    key.path: key.info.non_semantic for key in all_keys() if key.info.non_semantic
}
"""Keys and whole sections that may change when a run resumes, and why."""


class Difference(NamedTuple):
    """A key whose values differ between two configs."""

    key: str
    was: Any
    now: Any


def differences(started: Config, now: Config) -> list[Difference]:
    """Return the semantic settings that differ, in the order of the schema."""
    was, new = _semantic_values(started), _semantic_values(now)
    return [Difference(k, was.get(k), new.get(k)) for k in {**was, **new} if was.get(k) != new.get(k)]


def check_unchanged(run: str, started: Config, now: Config) -> None:
    """Raise ``UserError`` if a semantic setting differs from the one that ``run`` was started with."""
    changed = differences(started, now)
    if changed:
        key, was, new = changed[0]
        more = f" (and {', '.join(d.key for d in changed[1:4])})" if len(changed) > 1 else ""
        raise UserError(
            f"run {run} was started with {key}={format_value(was)}, now {format_value(new)}{more}; "
            "take the old value or train.run=<new name>"
        )


def _semantic_values(config: Config) -> dict[str, Any]:
    """The semantic settings by dotted key, without data sources and released weights that the stage does not
    use."""
    tree = asdict(config)
    used = {*config.stage.sources, *config.data.validation.sources}
    if config.stage.starts_from != RELEASED:
        del tree["model"]["weights"]["released"]
    tree["data"]["sources"] = {n: s for n, s in tree["data"]["sources"].items() if n in used}
    return {key: value for key, value in flatten(tree).items() if not is_non_semantic(key)}


def is_non_semantic(key: str) -> bool:
    """Whether a run may resume with another value of the key."""
    parts = key.split(".")
    return any(".".join(parts[:n]) in NON_SEMANTIC_KEYS for n in range(1, len(parts) + 1))
