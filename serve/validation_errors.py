"""The first error that pydantic finds, with the path that a user wrote; in one line for settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lladav.config.introspection import nearest

UNKNOWN_KEY = ("extra_forbidden", "invalid_key")
"""Pydantic's types of error for a key that a section does not have."""
MISSING = ("missing", "union_tag_not_found")
"""Those for a key that is absent."""
MAPPING_KEY = "[key]"
"""Last part of pydantic's location if the keys of a mapping are restricted and one is not allowed."""
SECRET = ("keys", "limits_storage")
"""Settings whose values messages never repeat: they may hold a password, or a key in clear by mistake."""


@dataclass(frozen=True)
class InvalidValue:
    """A value that does not validate."""

    path: str
    """As in ``keys[0].name``; empty for the whole."""
    message: str
    """Pydantic's reason."""
    value: Any
    unknown: bool
    """Whether no such key exists."""
    missing: bool
    """Whether a required key is absent."""


def first_error(error: ValidationError, values: Any, prefer_unknown: bool = False) -> InvalidValue:
    """The first error about ``values``; with ``prefer_unknown``, the first unknown key if there is one."""
    found = error.errors(include_url=False)
    unknown = (each for each in found if _is_unknown(each))
    first = next(unknown, found[0]) if prefer_unknown else found[0]
    missing = first["type"] in MISSING
    message = first["msg"].removeprefix("Value error, ")
    path = path_of(_location(first), values, missing)
    return InvalidValue(path, message, first["input"], _is_unknown(first), missing)


def _location(error: ErrorDetails) -> tuple[str | int, ...]:
    """Where an error is. An object of an unknown kind has its error at the key that names the kind."""
    key = str(error.get("ctx", {}).get("discriminator", ""))
    return (*error["loc"], key.strip("'")) if key.startswith("'") else error["loc"]


def settings_error(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """One line about the first error in settings. A misspelt key is reported before the key that it leaves
    missing."""
    first = first_error(error, values, prefer_unknown=True)
    if first.unknown:
        guess = nearest(first.path, sorted(known_paths(model, values)))
        hint = f"did you mean {guess}?" if guess else "--help lists all settings"
        return f"{first.path}: unknown setting; {hint}"
    if first.missing:
        return f"{first.path}: needs a value"
    if not first.path:
        return first.message
    show = isinstance(first.value, str | int | float) and not first.path.startswith(SECRET)
    return f"{first.path}{f'={first.value}' if show else ''}: {first.message}"


def _is_unknown(error: ErrorDetails) -> bool:
    return error["type"] in UNKNOWN_KEY or error["loc"][-1:] == (MAPPING_KEY,)


def path_of(location: Sequence[str | int], values: Any, missing: bool = False) -> str:
    """Pydantic's location as a path, as in ``keys[0].name``, without parts that name no key of ``values``.

    ``missing`` says that the last part is a key that ``values`` lacks.
    """
    path, here = "", values
    for number, part in enumerate(location, 1):
        if isinstance(here, list) and isinstance(part, int):
            path, here = f"{path}[{part}]", here[part]
        elif isinstance(here, Mapping) and (part in here or (missing and number == len(location))):
            path, here = f"{path}.{part}", here.get(part)
    return path.removeprefix(".")


def known_paths(kind: Any, values: Any, path: str = "") -> Iterator[str]:
    """Paths of all settings below a type; a list counts as many items as ``values`` has."""
    for name, inner, value in _children(kind, values):
        yield (path + name).removeprefix(".")
        yield from known_paths(inner, value, path + name)


def _children(kind: Any, values: Any) -> Iterator[tuple[str, Any, Any]]:
    """Names, types and values of the members of a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield f".{name}", field.annotation, _member(values, name)
    elif get_origin(kind) is list:
        for index, value in enumerate(values if isinstance(values, list) else []):
            yield f"[{index}]", get_args(kind)[0], value
    elif get_origin(kind) is dict:
        names, element = get_args(kind)
        for name in get_args(names) or (values if isinstance(values, Mapping) else ()):
            yield f".{name}", element, _member(values, name)
    else:
        for inner in get_args(kind):
            yield from _children(inner, values)


def _member(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, Mapping) else None
