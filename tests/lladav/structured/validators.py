"""Outside judges of answers: ``jsonschema`` and ``jsonschema_rs``, both with ``format`` asserted.

Neither may fetch anything. A judge that cannot read a schema abstains, for example because Python's ``re``
does not have its regular expression.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jsonschema_rs
from jsonschema.validators import Draft202012Validator, validator_for
from jsonschema_specifications import REGISTRY

Judge = Callable[[Any, Any], Sequence[str]]
"""The objections to a value of a schema."""


@dataclass(frozen=True)
class Verdict:
    """What the judges say about an answer."""

    judges: int
    """Judges that did not abstain."""
    objections: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether no judge objects; False if all abstain."""
        return self.judges > 0 and not self.objections


def judge_text(schema: Any, text: str, judges: Sequence[Judge] | None = None) -> Verdict:
    """The verdict on the text of an answer. Text that is not JSON, or repeats a name, is an objection."""
    try:
        value = strict_json(text)
    except ValueError as error:
        return Verdict(1, (f"not JSON: {error}",))
    return judge(schema, value, judges)


def judge(schema: Any, value: Any, judges: Sequence[Judge] | None = None) -> Verdict:
    """The verdict of these judges, or of all, on a value."""
    count, objections = 0, []
    for each in judges or (by_jsonschema, by_jsonschema_rs):
        try:
            objections += each(schema, value)
            count += 1
        except Exception:  # noqa: BLE001 - a judge may fail in any way on a schema that it cannot read
            continue
    return Verdict(count, tuple(objections))


def strict_json(text: str) -> Any:
    """A JSON value; raises ``ValueError`` for NaN, infinity, and a name that an object has twice."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)


def by_jsonschema(schema: Any, value: Any) -> list[str]:
    """The objections of ``jsonschema``, which uses ``re``: an expression may take exponential time."""
    kind = validator_for(schema, default=Draft202012Validator)
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER, registry=REGISTRY)
    return [f"jsonschema: {error.message[:200]}" for error in validator.iter_errors(value)]


def by_jsonschema_rs(schema: Any, value: Any) -> list[str]:
    """The objections of ``jsonschema_rs``."""
    validator = jsonschema_rs.validator_for(schema, validate_formats=True, retriever=_refuse_retrieval)
    return [f"jsonschema_rs: {error.message[:200]}" for error in validator.iter_errors(value)]


def _refuse_retrieval(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is not fetched")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("an object has a name twice")
    return found
