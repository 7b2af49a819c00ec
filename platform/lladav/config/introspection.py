"""The schema as a flat list of keys with types and documentation, and error lines about keys and values.

Everything is derived from the dataclasses of ``lladav.config.schema``; the text below a field documents it.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import json
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from lladav.config import choices, schema, train_schema
from lladav.config.setting import SettingInfo
from lladav.errors import UserError

OUR_MODULES = {module.__name__ for module in (schema, train_schema, choices)}
"""Modules whose classes are documented as keys."""


@dataclass(frozen=True)
class Key:
    """One key of the tree, which may be a section. ``<name>`` in its path stands for any name."""

    path: str
    kind: Any
    """Its type."""
    doc: str
    info: SettingInfo

    @property
    def is_section(self) -> bool:
        return is_dataclass(self.kind)


@cache
def all_keys() -> tuple[Key, ...]:
    """Every key of ``Config``, each section before its keys."""
    return tuple(_keys_below(schema.Config, ""))


def _keys_below(section: Any, prefix: str) -> Iterator[Key]:
    hints, docs = _hints(section), field_docs(section)
    for entry in fields(section):
        path, kind = prefix + entry.name, hints[entry.name]
        named = _element(kind) if get_origin(kind) is dict else None
        info = entry.metadata.get("setting", SettingInfo())
        yield Key(path, kind, docs.get(entry.name) or _type_doc(kind), info)
        if is_dataclass(kind):
            yield from _keys_below(kind, f"{path}.")
        elif is_dataclass(named):
            yield from _keys_below(named, f"{path}.<name>.")


@cache
def _hints(section: Any) -> dict[str, Any]:
    return get_type_hints(section)


def field_docs(section: type) -> dict[str, str]:
    """Return the text below each field of a dataclass, inherited fields included."""
    bases = [base for base in reversed(section.__mro__) if is_dataclass(base)]
    return {
        k: v for base in bases for k, v in _docs_of_module(base.__module__).get(base.__name__, {}).items()
    }


@cache
def _docs_of_module(name: str) -> dict[str, dict[str, str]]:
    classes = [n for n in ast.parse(inspect.getsource(sys.modules[name])).body if isinstance(n, ast.ClassDef)]
    return {c.name: dict(_docs_of(c.body)) for c in classes}


def _docs_of(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            name, text = statement.target, following.value
            if isinstance(name, ast.Name) and isinstance(text, ast.Constant):
                yield name.id, " ".join(str(text.value).split())


def _type_doc(kind: Any) -> str:
    """The docstring of a section or of an enum of the schema."""
    ours = getattr(kind, "__module__", None) in OUR_MODULES
    return " ".join((kind.__doc__ or "").split()) if ours else ""


def kind_text(kind: Any) -> str:
    """Describe a type: ``whole number``, ``bf16 | float32``, ``list of text``."""
    if inner := _optional(kind):
        return f"{kind_text(inner)} or null"
    if is_dataclass(kind):
        return "section"
    if get_origin(kind) is list:
        return f"list of {kind_text(_element(kind))}{'s' * (_element(kind) in (int, float))}"
    if get_origin(kind) is dict:
        return "names with values"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " | ".join(kind.__members__)
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(kind, "anything")


def type_problem(path: str, value: Any) -> str:
    """Say what the key at ``path`` accepts instead of ``value``, as the end of an error line."""
    kind = kind_of(path)
    names = _choices(kind)
    if is_dataclass(kind):
        return f"a section, not a value; set a key of it, as in {path}.{fields(kind)[0].name}=..."
    if get_origin(kind) is list and isinstance(value, str) and value in names:
        return f"must be a list, as in {path}=[{value}]"
    if names:
        return f"no such choice{choices_hint(str(value), names)}"
    text = kind_text(kind)
    return f"must be {text if text.startswith(('true', 'text', 'names')) else f'a {text}'}"


def _choices(kind: Any) -> list[str]:
    """The names that an enum, a list of an enum or an optional enum accepts; none for other types."""
    inner = _optional(kind) or (_element(kind) if get_origin(kind) is list else kind)
    return list(inner.__members__) if isinstance(inner, type) and issubclass(inner, Enum) else []


def _optional(kind: Any) -> Any:
    is_union = get_origin(kind) in (Union, types.UnionType)
    return next((a for a in get_args(kind) if a is not type(None)), None) if is_union else None


def _element(kind: Any) -> Any:
    return get_args(kind)[-1]


def kind_of(path: str) -> Any:
    """The type of the key at ``path``, with a real name for each ``<name>``; None if no such key exists."""
    kind: Any = schema.Config
    for part in path.split("."):
        if is_dataclass(kind):
            kind = _hints(kind).get(part)
        elif get_origin(kind) is dict:
            kind = _element(kind)
        elif kind is not Any:
            return None
    return kind


def check_keys(tree: Mapping[str, Any], where: str = "", prefix: str = "") -> None:
    """Raise ``UserError`` for the first key that the schema lacks, or whose value has the wrong structure."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        kind = kind_of(path)
        if kind is None:
            raise UserError(f"{where}{path}: unknown key{did_you_mean(path, nearest_key(path))}")
        if isinstance(value, Mapping):
            check_keys(value, where, f"{path}.")
        if not _has_structure(value, kind):
            shown = "null" if value is None else value
            raise UserError(f"{where}{path}={shown}: {type_problem(path, value)}")


def _has_structure(value: Any, kind: Any) -> bool:
    """Whether a value is a mapping, a flat list or a scalar, as its type needs. OmegaConf checks the rest."""
    if get_origin(kind) is list and isinstance(value, list):
        return not any(isinstance(each, list | Mapping) for each in value)
    return kind is Any or isinstance(value, Mapping) == (is_dataclass(kind) or get_origin(kind) is dict)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as dotted keys with values; enums become their names."""
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
    """Return a value as a user would type it."""
    if isinstance(value, list):
        return f"[{','.join(format_value(v) for v in value)}]"
    return "null" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)


def nearest_key(path: str) -> str | None:
    """The key that ``path`` most likely means: a similar sibling, a similar path, or the same last name."""
    known = [key.path for key in all_keys()]
    section, _, leaf = path.rpartition(".")
    siblings = {p.rpartition(".")[2]: p for p in known if p.rpartition(".")[0] == section}
    if match := nearest(leaf, siblings):
        return siblings[match]
    elsewhere = {p.rpartition(".")[2]: p for p in reversed(known)}
    return nearest(path, known) or elsewhere.get(nearest(leaf, elsewhere) or "")


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most similar to ``name``; None if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1)), None)


def choices_hint(name: str, candidates: Iterable[str]) -> str:
    """The end of an error line about an unknown ``name``: the most similar choice and all choices."""
    names = list(candidates)
    guess = nearest(name, names)
    return f"{f'; did you mean {guess}?' if guess else ''} (choices: {', '.join(names)})"


def did_you_mean(name: str, guess: str | None) -> str:
    """The end of an error line about an unknown ``name``: the guess, or where to look."""
    return f"; did you mean {guess}?" if guess and guess != name else "; --help lists them all"
