"""The text of ``--help``: the groups and their choices, then every key with its value, type and purpose."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from lladav.config import loader as settings
from lladav.config.introspection import Key, all_keys, flatten, format_value, kind_text
from lladav.config.schema import Config

MIN_WIDTH, MAX_WIDTH = 60, 110
VALUE_COLUMN = 36


class Style:
    """Terminal colours; without effect if ``on`` is false."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._on and text else text

    def title(self, text: str) -> str:
        return self(text, "1")

    def key(self, text: str) -> str:
        return self(text, "36")

    def quiet(self, text: str) -> str:
        return self(text, "2")


def help_text(overrides: Sequence[str], doc: str = "") -> str:
    """Return the help of a command: ``doc``, then all keys with the values that ``overrides`` result in."""
    config = settings.load(settings.expand_stages(overrides)[0])
    style = Style(sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    width = max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size().columns))
    parts = [*_opening(doc, style), *_groups(config, style, width), *_keys(config, style, width)]
    return "\n".join(parts)


def _opening(doc: str, style: Style) -> Iterator[str]:
    command = Path(sys.argv[0]).name
    if doc:
        yield doc.strip() + "\n"
    yield f"{style.title('Usage')}  {command} [group=choice ...] [section.key=value ...]"
    yield "  print=true   print the resulting settings and exit"
    yield "  --help       this text, with the values that the other arguments result in"
    yield "  stage=all    every stage of the curriculum in order\n"


def _groups(config: Config, style: Style, width: int) -> Iterator[str]:
    yield style.title("Groups") + style.quiet("  (* is in effect)")
    for group in settings.GROUPS:
        chosen = getattr(config, group).name
        for n, name in enumerate(settings.group_choices(group)):
            mark = "*" if name == chosen else " "
            label = f"{group + '=' if n == 0 else '':>11}{name:<13}{mark} "
            about = _first_comment(settings.CONF / group / f"{name}.yaml")
            shortened = textwrap.shorten(about, width - len(label), placeholder=" ...")
            yield style.key(label) + style.quiet(shortened)


def _first_comment(file: Path) -> str:
    line = file.read_text(encoding="utf-8").partition("\n")[0]
    return line.lstrip("# ") if line.startswith("#") else ""


def _keys(config: Config, style: Style, width: int) -> Iterator[str]:
    values = flatten(asdict(config))
    for key in all_keys():
        if key.is_section:
            yield from _section(key, style, width)
        else:
            yield from _key(key, format_value(values[key.path]) if key.path in values else "", style, width)


def _section(key: Key, style: Style, width: int) -> Iterator[str]:
    indent = "  " if "." in key.path else ""
    yield ("" if indent else "\n") + indent + style.title(key.path)
    yield from _paragraph(key.doc, indent + "  ", style, width)


def _key(key: Key, value: str, style: Style, width: int) -> Iterator[str]:
    gap = " " * max(2, VALUE_COLUMN - len(f"{key.path}={value}"))
    yield f"  {style.key(key.path)}={value}{gap}{style.quiet(kind_text(key.kind))}"
    yield from _paragraph(key.doc, "      ", style, width)


def _paragraph(text: str, indent: str, style: Style, width: int) -> Iterator[str]:
    for line in textwrap.wrap(text.replace("``", ""), width - len(indent)):
        yield indent + style.quiet(line)
