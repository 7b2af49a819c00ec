"""The text of ``--help``: every setting of serving with its value and its purpose, one line each.

In a terminal a line is cut at its width; in a file or a pipe it is whole.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from serve.settings import ServeSettings
from serve.settings_files import DEFAULT_CONFIG, merged

MIN_WIDTH, VALUE_COLUMN = 100, 38


class Line(NamedTuple):
    """A setting, or a section of settings, in the help."""

    path: str
    value: str | None
    """As a user would type it; None for a section."""
    purpose: str


def settings_help(arguments: Mapping[str, Any], kind: type[ServeSettings] = ServeSettings) -> str:
    """All settings with the values that some arguments result in. Raises ``UserError`` as ``merged`` does."""
    width = max(MIN_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
    config = Line("config", str(arguments.get("config", DEFAULT_CONFIG)), "A file of conf/serve with values.")
    lines = [config, *settings_lines(kind, merged(arguments))]
    return "\n".join(_text(line, width) for line in lines)


def settings_lines(section: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Iterator[Line]:
    """The settings of a section and of the sections below it; ``values`` override the defaults."""
    for name, field in section.model_fields.items():
        path, kind = prefix + name, field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield Line(path, None, field.description or kind.__doc__ or "")
            yield from settings_lines(kind, values.get(name) or {}, f"{path}.")
        else:
            value = values.get(name, _default(field))
            yield Line(path, _typed(value), field.description or "")


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)
    return "" if default is PydanticUndefined else default


def _typed(value: Any) -> str:
    """A value in YAML, on one line."""
    plain = value.value if isinstance(value, Enum) else value
    if isinstance(plain, str):
        return plain
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _text(line: Line, width: int | None) -> str:
    purpose = " ".join(line.purpose.replace("``", "").split()).partition(". ")[0].rstrip(".")
    if line.value is None:
        return "\n" + _shortened(f"{line.path}: {purpose}", width)
    label = f"  {line.path}={line.value}"
    gap = " " * max(2, VALUE_COLUMN - len(label))
    return label + gap + _shortened(purpose, width and max(20, width - len(label + gap)))


def _shortened(text: str, width: int | None) -> str:
    return text if width is None else textwrap.shorten(text, width, placeholder=" ...")
