"""Runs LMMs-Eval as a command and reads the answers that it logs.

LMMs-Eval needs other versions of packages than this project, so it runs in the Python of its own virtual
environment (``make lmms-eval`` creates one).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lladav.errors import UserError

SAMPLES = "*samples_*.jsonl"
"""Files of logged answers."""
RESULTS = "*_results.json"
"""Files of scores and throughput."""
LAST_LINES = 15
"""Lines of LMMs-Eval's output in an error."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled"}


@dataclass(frozen=True)
class LMMsEvalRun:
    """A call of ``python -m lmms_eval``. All paths are absolute."""

    python: Path
    """Interpreter of the virtual environment that holds LMMs-Eval and this project."""
    tasks: Sequence[str]
    output: Path
    """Folder for results, logged answers and the output of the command."""
    model: str = "lladav"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Of our model: ``model=FOLDER`` and decoding settings, as in ``refresh_interval=8``."""
    batch_size: int = 1
    include: Path | None = None
    """Folder with more tasks."""
    limit: int | None = None
    """Documents of each task; None: all."""
    offline: bool = False
    """Whether LMMs-Eval must not use the network."""

    @property
    def log(self) -> Path:
        """The file with the output of the command."""
        return self.output / "lmms_eval.log"

    @property
    def command(self) -> list[str]:
        """The command line."""
        optional = {"--include_path": self.include, "--limit": self.limit}
        return [
            *(str(self.python), "-m", "lmms_eval", "--model", self.model),
            *("--model_args", ",".join(f"{name}={value}" for name, value in self.model_args.items())),
            *("--tasks", ",".join(self.tasks), "--batch_size", str(self.batch_size)),
            *("--output_path", str(self.output), "--log_samples"),
            *(part for name, value in optional.items() if value is not None for part in (name, str(value))),
        ]


@dataclass(frozen=True)
class LoggedAnswer:
    """A document of a task with the model's answer."""

    document: int
    answer: str
    record: Mapping[str, Any]
    """Everything that LMMs-Eval logs, with the score of each metric."""


@dataclass(frozen=True)
class LMMsEvalResults:
    """What a call of LMMs-Eval has logged."""

    answers: Mapping[str, Sequence[LoggedAnswer]]
    """Answers to each task, by document."""
    tokens_per_second: float | None
    """Throughput that the model reports; None: it reports none."""


def run(call: LMMsEvalRun) -> LMMsEvalResults:
    """Run the command. Raises ``UserError`` if it fails or logs no answers."""
    # The command runs in a folder of its own: Python would find the packages of a checkout there.
    call.output.mkdir(parents=True, exist_ok=True)
    earlier = {*call.output.rglob(SAMPLES), *call.output.rglob(RESULTS)}
    environment = {**os.environ, **(OFFLINE if call.offline else {})}
    with call.log.open("wb") as output:
        done = subprocess.run(
            call.command, cwd=call.output, env=environment, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        raise UserError(f"lmms_eval ended with code {done.returncode}; see {call.log}: {_end_of(call.log)}")
    logged = set(call.output.rglob(SAMPLES)) - earlier
    answers = {task: _logged(call, task, logged) for task in call.tasks}
    return LMMsEvalResults(answers, _speed(set(call.output.rglob(RESULTS)) - earlier))


def _logged(call: LMMsEvalRun, task: str, files: Iterable[Path]) -> list[LoggedAnswer]:
    file = next((each for each in files if each.name.endswith(f"samples_{task}.jsonl")), None)
    if file is None:  # LMMs-Eval also ends with code 0 after an error
        raise UserError(f"lmms_eval logged no answers of task {task}; see {call.log}: {_end_of(call.log)}")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    answers = [LoggedAnswer(each["doc_id"], _answer(each), each) for each in records]
    return sorted(answers, key=lambda each: each.document)


def _speed(files: Iterable[Path]) -> float | None:
    found = (json.loads(file.read_text(encoding="utf-8")).get("throughput") for file in files)
    return next((each["avg_speed"] for each in found if each), None)


def _answer(record: Mapping[str, Any]) -> str:
    answer = record["filtered_resps"]
    return answer[0] if isinstance(answer, list) else answer


def _end_of(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
