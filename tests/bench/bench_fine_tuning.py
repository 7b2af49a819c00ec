"""Fine-tuning of the shipped tiny model on 200 images: digits as words, in full and with adapters.

    python tests/bench/bench_fine_tuning.py --work runs/words
    python tests/bench/bench_fine_tuning.py --work runs/tried --split validation --way lora stage.epochs=20

Writes images of one digit each and ``records.json`` with questions whose answers are words, trains
with ``train/run.py stage=finetune data=mine``, exports and merges with ``train/export.py``, answers held-out
questions with ``train/evaluate.py`` and serves the last model once. Arguments with ``=`` are further settings
of training. Settings were chosen by the validation half; no digit of either half is in a training image.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import httpx2 as httpx  # noqa: E402 - the path comes first
import numpy as np  # noqa: E402

from data.digits import glyphs, questions, records, scenes, writers  # noqa: E402
from data.digits.questions import Split  # noqa: E402
from data.digits.records import DigitRecord, DigitVisual  # noqa: E402
from lladav.checkpoint import shipped_model  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from tests.bench.reporting import table  # noqa: E402
from train.checkpoints.run_folder import Run  # noqa: E402
from train.evaluate import EVALUATION, answer_all, stage_questions  # noqa: E402

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAINED, HELD_OUT, SEED = 200, 100, 7
"""Training samples, and questions of each half."""
COMMON = (
    *("stage=finetune", "model=tiny", "data=mine", "model.tokenizer=models/tiny"),
    *("stage.global_batch=8", "stage.epochs=20"),
)
WAYS = {
    "full": ("stage.lr.language=1e-3", "stage.lr.projector=1e-3"),
    "lora": ("train.adapter=lora", "train.lora.vocabulary=true", "train.lora.lr=2e-3"),
}
"""Settings of training: all weights, and adapters beside trained token embeddings and LM head."""
KINDS = ("right word", "another of the words", "cut or too long", "no word", "digits")
"""What an answer may be."""


def main() -> None:
    arguments, given = _parser().parse_known_args()
    work, split = arguments.work.resolve(), Split(arguments.split)
    write_data(work / "data")
    common = [*COMMON, f"data.root={work}/data", f"train.storage={work}/runs"]
    rows = [["as shipped", *_cells(shipped_model(), common, split), ""]]
    ways = arguments.way or [*WAYS]
    for way in ways:
        overrides = [*common, f"train.run={way}", *WAYS[way], *given]
        exported = work / "models" / way
        seconds = train_and_export(overrides, exported)
        assert evaluated(overrides, split) == answers(exported, overrides, split)
        rows.append([way, *_cells(exported, overrides, split), f"{seconds:.0f} s"])
    table(("model", *KINDS, "right word with EOS", "training"), rows)
    serve_once(work / "models" / ways[-1], work / "data", split)


def write_data(root: Path) -> None:
    """The training samples as a user has them, and the held-out questions."""
    if (root / "records.json").is_file():
        return
    trained = list(records.records(partial(asked, None), "words", TRAINED, SEED, glyphs.training_pool()))
    writers.write_json_folder(trained, root, "png")
    (root / "annotations.json").rename(root / "records.json")
    held_out = [
        record
        for split in Split
        for record in records.records(
            partial(asked, split), split, HELD_OUT, SEED, glyphs.held_out_pool(split)
        )
    ]
    writers.write_questions(held_out, root / "held_out")


def asked(split: Split | None, name: str, rng: np.random.Generator, pool: glyphs.Pool) -> DigitRecord:
    """An image of one digit with a question whose answer is the digit as a word."""
    scene = scenes.compose(rng, pool, 1, 1.0 if split is None else records.HELD_OUT_WARP)
    question, digit = questions.read(scene.digits, rng)
    return DigitRecord(name, "word", [(question, WORDS[int(digit)])], [DigitVisual((scene,))], split)


def train_and_export(overrides: Sequence[str], out: Path) -> float:
    """Train and export with the commands of the README; returns the seconds of training."""
    begin = time.monotonic()
    command("train/run.py", *overrides)
    seconds = time.monotonic() - begin
    if not out.exists():
        command("train/export.py", f"run={Run.of(load(overrides)).path}", f"out={out}")
    return seconds


def evaluated(overrides: Sequence[str], split: Split) -> list[str]:
    """The answers that ``train/evaluate.py`` saves."""
    command("train/evaluate.py", *overrides, f"split={split}")
    checkpoint = Run.of(load(overrides)).latest()
    assert checkpoint is not None
    saved = json.loads((checkpoint.path / EVALUATION[split]).read_text())
    return [row["answer"] for row in saved["answers"]]


def answers(model: Path, overrides: Sequence[str], split: Split) -> list[str]:
    """The answers of a folder of weights, as ``train/evaluate.py`` asks."""
    config = load(overrides)
    return [row["answer"] for row in answer_all(model, config, stage_questions(config, split))["answers"]]


def kind_of(answer: str, expected: str) -> str:
    """Which of ``KINDS`` an answer is."""
    answer = answer.strip()
    if answer == expected:
        return KINDS[0]
    if answer in WORDS:
        return KINDS[1]
    if answer.startswith(expected) or expected.startswith(answer):
        return KINDS[2]
    return KINDS[4] if any(character.isdigit() for character in answer) else KINDS[3]


def _cells(model: Path, overrides: Sequence[str], split: Split) -> list[str]:
    """Shares of the kinds of answers, and of right words if the answer may contain EOS."""
    expected = [question.answer for question in stage_questions(load(overrides), split)]
    found = [
        Counter(map(kind_of, answers(model, [*overrides, f"model.allow_eos={allow}"], split), expected))
        for allow in ("false", "true")
    ]
    shares = [*(found[0][kind] for kind in KINDS), found[1][KINDS[0]]]
    return [f"{share / len(expected):.0%}" for share in shares]


def serve_once(model: Path, data: Path, split: Split) -> None:
    """Ask a server of the model one held-out question."""
    rows = map(json.loads, (data / "held_out" / "questions.jsonl").read_text().splitlines())
    row = next(row for row in rows if row["split"] == split)
    image = base64.b64encode((data / "held_out" / "images" / row["image"]).read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "text", "text": row["question"]},
    ]
    with served(model) as ask:
        print(f"served: {row['question']} -> {ask(content)} (expected: {row['answer']})", flush=True)


@contextmanager
def served(model: Path) -> Iterator[Callable[[list[dict]], str]]:
    """A function that asks a running server of a model."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-m", "serve.run", f"model={model}", f"port={port}"]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    server = subprocess.Popen(
        arguments, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert any("is ready" in line for line in server.stdout), "the server does not start"

        def ask(content: list[dict]) -> str:
            body = {"model": "llada-v-tiny", "messages": [{"role": "user", "content": content}]}
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            answer = httpx.post(url, json=body, timeout=60).raise_for_status().json()
            return answer["choices"][0]["message"]["content"]

        yield ask
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def command(*words: str) -> None:
    """Run a command of the README in the checkout."""
    print("$ python", *words, flush=True)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path("runs/words"), help="folder of data, runs and models"
    )
    parser.add_argument("--split", default=Split.test.value, choices=[*Split], help="half of the questions")
    parser.add_argument("--way", action="append", choices=WAYS, help="what is trained; default: all")
    return parser


if __name__ == "__main__":
    main()
