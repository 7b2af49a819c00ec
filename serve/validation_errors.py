"""What pydantic finds wrong with settings, as one line: where, what, the fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lladav.config.introspection import nearest

NO_SUCH_KEY = ("extra_forbidden", "invalid_key")
"""Findings about a key of a section."""
MISSING = "missing"
NAME = "[key]"
"""Pydantic's last part of the place of a name that a mapping does not take."""
PRIVATE = ("keys", "limits_storage")
"""Settings whose values are not repeated: a key in clear may be there by mistake, or a password."""


def settings_error(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """The first thing that is wrong with ``values``; a misspelt key comes before what is missing for it."""
    found = error.errors()
    first = next((each for each in found if _is_unknown(each)), found[0])
    where = path_of(first["loc"], values, first["type"] == MISSING)
    if _is_unknown(first):
        guess = nearest(where, sorted(known_paths(model, values)))
        return f"{where}: unknown setting" + (f"; did you mean {guess}?" if guess else "; see conf/serve")
    if first["type"] == MISSING:
        return f"{where}: needs a value"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}{_shown(where, first['input'])}: {message}" if where else message


def _is_unknown(found: ErrorDetails) -> bool:
    return found["type"] in NO_SUCH_KEY or found["loc"][-1:] == (NAME,)


def _shown(where: str, value: Any) -> str:
    return f"={value}" if isinstance(value, str | int | float) and not where.startswith(PRIVATE) else ""


def path_of(place: Sequence[str | int], values: Any, missing: bool = False) -> str:
    """``keys[0].name``; what pydantic puts in between, and is no key, is left out.

    ``missing`` says that the last part is a key that ``values`` lacks.
    """
    path, here = "", values
    for number, part in enumerate(place, 1):
        if isinstance(here, list) and isinstance(part, int):
            path, here = f"{path}[{part}]", here[part]
        elif isinstance(here, Mapping) and (part in here or (missing and number == len(place))):
            path, here = f"{path}.{part}", here.get(part)
    return path.removeprefix(".")


def known_paths(kind: Any, values: Any, path: str = "") -> Iterator[str]:
    """Paths of everything that can be set below a type; of as many items of a list as ``values`` has."""
    for name, inner, value in _below(kind, values):
        yield (path + name).removeprefix(".")
        yield from known_paths(inner, value, path + name)


def _below(kind: Any, values: Any) -> Iterator[tuple[str, Any, Any]]:
    """Names, types and values of what a type holds."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield f".{name}", field.annotation, _value(values, name)
    elif get_origin(kind) is list:
        for index, value in enumerate(values if isinstance(values, list) else []):
            yield f"[{index}]", get_args(kind)[0], value
    elif get_origin(kind) is dict:
        names, element = get_args(kind)
        for name in get_args(names):
            yield f".{name}", element, _value(values, name)
    else:
        for inner in get_args(kind):
            yield from _below(inner, values)


def _value(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, Mapping) else None
