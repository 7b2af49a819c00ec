"""Writing of the built-in data set into a folder, once.

    llava_pretrain/annotations.json, images/         captions
    mammoth_si/annotations.json, *.tar               questions about one image
    mammoth_ov/annotations.json, *.tar               several images, text alone, videos, one image
    visualwebinstruct/annotations.jsonl, images.zip  step-by-step arithmetic
    llava_next/train-00000-of-00001.parquet          the ablation's set
    descriptions/annotations.json, images/           long descriptions of one image
    held_out/questions.jsonl, images/                questions on glyphs that no training image shows, in two
                                                     halves (split): validation and test
    tokenizer/                                       byte-level BPE with LLaDA's special tokens
    glyphs.json                                      the glyphs of each half, and the glyphs in each image

The folder is created atomically: everything is written to a temporary folder next to it and renamed at the
end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from data.digits import bpe, corpus, glyphs, records, variations, writers
from data.digits.questions import Split
from data.digits.records import DigitRecord, Make
from lladav.errors import UserError

SEED = 42


class TrainingSet(NamedTuple):
    """A training set."""

    make: Make
    size: int
    """Number of records."""
    write: Callable[[Sequence[DigitRecord], Path], writers.Provenance]


SETS = {
    "llava_pretrain": TrainingSet(records.captioned, 3000, writers.write_json_folder),
    "mammoth_si": TrainingSet(records.single_image, 5000, writers.write_json_tars),
    "mammoth_ov": TrainingSet(records.one_vision, 2500, writers.write_json_tars),
    "visualwebinstruct": TrainingSet(records.step_by_step, 2500, writers.write_jsonl_zip),
    "llava_next": TrainingSet(records.single_image, 500, writers.write_parquet),
    "descriptions": TrainingSet(records.described, 2000, writers.write_json_folder),
}
"""The training sets by name. A new one also needs an entry in ``conf/data/digits.yaml``."""

HELD_OUT_FOLDER = "held_out"
PROCESSES = 2
MARKER = "prepared.json"
VERSION = 6
"""Increased when the content changes; a folder of another version is then written again."""


def prepare(out: Path, seed: int = SEED, scale: float = 1.0) -> dict[str, int]:
    """Write the data set to ``out`` unless it is complete already; returns the number of records by set.

    ``scale`` shortens the training sets (for tests). Raises ``UserError`` if ``out`` holds something else.
    """
    identity = {"version": VERSION, "seed": seed, "scale": scale}
    done = _marker(out)
    if done and done["identity"] == identity:
        return done["records"]
    if out.exists() and not done:
        raise UserError(
            f"{out}: exists and is not a built-in data set; choose another folder or remove this one"
        )
    return _replace(out, identity)


def update(out: Path) -> None:
    """Write the data set if ``out`` does not exist, and again if it is of an earlier version."""
    done = _marker(out)
    if done:
        prepare(out, done["identity"]["seed"], done["identity"]["scale"])
    elif not out.exists():
        prepare(out)


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
    """Write the sets in parallel, then the files that depend on all of them; returns records by set."""
    names = [*sorted(SETS, key=lambda name: SETS[name].size, reverse=True), HELD_OUT_FOLDER]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        written = pool.map(_write_set, [root / name for name in names], repeat(seed), repeat(scale))
        sets = dict(zip(names, written, strict=True))
    shown = {f"{name}/{path}": seen for name, each in sets.items() for path, seen in each.shown.items()}
    halves = {split.value: glyphs.held_out_pool(split).indices.tolist() for split in Split}
    provenance = {"held_out": sorted(chain(*halves.values())), **halves, "pictures": shown}
    (root / "glyphs.json").write_text(json.dumps(provenance) + "\n")
    bpe.save(bpe.train(corpus.sentences()), root / "tokenizer")
    return {name: sets[name].records for name in (*SETS, HELD_OUT_FOLDER)}


class _WrittenSet(NamedTuple):
    """The number of records of a set that has been written, and the glyphs in its images."""

    records: int
    shown: writers.Provenance


def _write_set(folder: Path, seed: int, scale: float) -> _WrittenSet:
    if folder.name == HELD_OUT_FOLDER:
        questions = [record for split in Split for record in records.held_out(split, seed)]
        return _WrittenSet(len(questions), writers.write_questions(questions, folder))
    chosen = SETS[folder.name]
    total = max(1, round(chosen.size * scale))
    made = records.records(chosen.make, folder.name, total, seed, glyphs.training_pool())
    varied = [variations.varied(record) for record in made]
    return _WrittenSet(len(varied), chosen.write(varied, folder))
