"""Parts of the Markdown pages."""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language; that of commands has no name."""
    return [content for kind, content in BLOCK.findall(text) if kind == language]


def section(text: str, heading: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, heading
    return rest.partition("\n## ")[0]


def command_lines(text: str) -> list[str]:
    """The lines of all blocks of commands, with continued lines joined."""
    return "\n".join(blocks(text, "")).replace("\\\n", " ").splitlines()


def write_data_set(conf: Path, readme: str) -> None:
    """Write ``pets.yaml`` as the README describes it: a copy of ``mine.yaml`` with two edited lines."""
    edited = re.search(r"edit the two last lines: `(annotations: .*?)` and `(media: .*?)`", readme)
    assert edited
    *kept, annotations, media = (conf / "data" / "mine.yaml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate((annotations, media), 1):
        key = edited[number].partition(":")[0]
        assert line.strip().startswith(key)
        kept.append(line.partition(key)[0] + edited[number])
    (conf / "data" / "pets.yaml").write_text("\n".join(kept) + "\n", encoding="utf-8")
