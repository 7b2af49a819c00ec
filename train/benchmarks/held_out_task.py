"""Writes the held-out questions as a task of LMMs-Eval that reads local files only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from train.evaluation.held_out import Question

TASK = "lladav_held_out"
TASK_YAML = """\
task: {task}
dataset_path: parquet
dataset_kwargs:
  data_files: {{test: {questions}}}
test_split: test
output_type: generate_until
doc_to_visual: !function task_functions.media
doc_to_text: question
doc_to_target: answer
process_results: !function task_functions.scores
generation_kwargs: {{max_new_tokens: {tokens}, temperature: 0, do_sample: false}}
metric_list:
  - {{metric: exact_match_of_answer, aggregation: mean, higher_is_better: true}}
"""
TASK_FUNCTIONS = '''\
"""Functions of the task, which LMMs-Eval loads from this file."""

import io

from PIL import Image

from data.digits.questions import is_correct


def media(document):
    """PIL images, or a video. LMMs-Eval's models for HTTP would take the path of a GIF for an image."""
    if document["video"]:
        return [{"type": "video", "url": document["video"]}]
    return [Image.open(io.BytesIO(content)) for content in document["images"]]


def scores(document, results):
    return {"exact_match_of_answer": float(is_correct(document["type"], results[0], document["answer"]))}
'''
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "type", "question", "answer", "video")),
        ("images", pa.list_(pa.binary())),
    ]
)


def write_task(questions: Sequence[Question], folder: Path, max_tokens: int) -> Path:
    """Write the task into a folder for ``--include_path``; documents are in the order of the questions."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.absolute() / "questions.parquet"
    pq.write_table(pa.Table.from_pylist([_row(each) for each in questions], SCHEMA), file)
    text = TASK_YAML.format(task=TASK, questions=file, tokens=max_tokens)
    (folder / f"{TASK}.yaml").write_text(text, encoding="utf-8")
    (folder / "task_functions.py").write_text(TASK_FUNCTIONS, encoding="utf-8")
    return folder


def _row(question: Question) -> dict[str, object]:
    return {
        "id": question.id,
        "type": question.type,
        "question": question.text,
        "answer": question.answer,
        "video": str(question.media[0].absolute()) if question.is_video else "",
        "images": [] if question.is_video else [path.read_bytes() for path in question.media],
    }
