"""Writes the whole embedded data set into a folder, once.

    llava_pretrain/annotations.json, images/         captions
    mammoth_si/annotations.json, *.tar               questions about one image
    mammoth_ov/annotations.json, *.tar               several images, text alone, clips, one image
    visualwebinstruct/annotations.jsonl, images.zip  step-by-step arithmetic
    llava_next/train-00000-of-00001.parquet          the ablation's set
    held_out/questions.jsonl, images/                questions on glyphs that no training image shows
    tokenizer/                                       byte-level BPE with LLaDA's special tokens
    glyphs.json                                      which glyphs are held out, and which each picture shows

The folder appears whole or not at all: everything is written beside it and renamed at the end.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from data.digits import bpe, corpus, glyphs, writers
from data.digits.records import SETS, held_out, training_set
from lladav.errors import UserError

SEED = 42
WRITERS = {
    "llava_pretrain": writers.write_json_folder,
    "mammoth_si": writers.write_json_tars,
    "mammoth_ov": writers.write_json_tars,
    "visualwebinstruct": writers.write_jsonl_zip,
    "llava_next": writers.write_parquet,
}
"""The on-disk format of each training set."""

HELD_OUT_FOLDER = "held_out"
PROCESSES = 2
MARKER = "prepared.json"
VERSION = 3
"""Raised when the content changes: an older folder is then written anew."""


def prepare(out: Path, seed: int = SEED, scale: float = 1.0) -> dict[str, int]:
    """Write the data set to ``out`` unless it is there already; returns records by set.

    ``scale`` shortens the training sets (for tests). Raises ``UserError`` where ``out`` holds something else.
    """
    identity = {"version": VERSION, "seed": seed, "scale": scale}
    done = _marker(out)
    if done and done["identity"] == identity:
        return done["records"]
    if out.exists() and not done:
        raise UserError(
            f"{out}: exists and is not an embedded data set; choose another folder or remove this one"
        )
    return _replace(out, identity)


def _replace(out: Path, identity: dict) -> dict[str, int]:
    temporary = out.with_name(out.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    totals = _write_all(temporary, identity["seed"], identity["scale"])
    marker = {"identity": identity, "records": totals}
    (temporary / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    return totals


def _marker(out: Path) -> dict | None:
    file = out / MARKER
    return json.loads(file.read_text()) if file.is_file() else None


def _write_all(root: Path, seed: int, scale: float) -> dict[str, int]:
    """Write the sets side by side, then what follows from all of them; returns records by set."""
    names = [*sorted(SETS, key=lambda name: SETS[name][1], reverse=True), HELD_OUT_FOLDER]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        written = pool.map(_write_set, [root / name for name in names], repeat(seed), repeat(scale))
        parts = dict(zip(names, written, strict=True))
    shown = {f"{name}/{path}": seen for name, part in parts.items() for path, seen in part.shown.items()}
    provenance = {"held_out": glyphs.held_out_pool().indices.tolist(), "pictures": shown}
    (root / "glyphs.json").write_text(json.dumps(provenance) + "\n")
    bpe.save(bpe.train(chain.from_iterable(part.said for part in parts.values())), root / "tokenizer")
    return {name: parts[name].records for name in (*SETS, HELD_OUT_FOLDER)}


class _Part(NamedTuple):
    """What is left to be told of a set once it is written; ``said`` is empty for held-out questions."""

    records: int
    shown: writers.Provenance
    said: list[str]


def _write_set(folder: Path, seed: int, scale: float) -> _Part:
    if folder.name == HELD_OUT_FOLDER:
        questions = list(held_out(glyphs.held_out_pool(), seed))
        return _Part(len(questions), writers.write_questions(questions, folder), [])
    records = training_set(folder.name, seed, glyphs.training_pool(), scale)
    return _Part(len(records), WRITERS[folder.name](records, folder), list(corpus.sentences(records)))
