"""Held-out questions: reading them and generating a model's answers.

They lie in a folder with ``images/`` and ``questions.jsonl`` (id, type, split, image or video, question,
answer). A question without ``split`` belongs to the validation half.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from data.digits.questions import Split, is_correct
from lladav.config.schema import Pixels, Suffix
from lladav.decoding.engine import decode
from lladav.decoding.params import DecodingOptions
from lladav.decoding.prompts import question_prompt
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.clips import read_clip
from lladav.inputs.image_files import read_image
from lladav.inputs.images import prepare_images
from lladav.inputs.samples import Sample, Visual
from lladav.model.llada_v import LLaDAV

SOURCE_OF_TYPE = {"arithmetic": "visualwebinstruct"}
DEFAULT_SOURCE = "mammoth_ov"
"""The source that has training questions of a type; it decides which suffix a question gets."""


@dataclass(frozen=True)
class Question:
    """A question about images or a video, with the correct answer."""

    id: str
    type: str
    media: list[Path]
    """Image files, or one video."""
    is_video: bool
    text: str
    answer: str
    split: Split = Split.validation


@dataclass(frozen=True)
class Answered:
    """A question with the model's answer."""

    question: Question
    answer: str

    @property
    def correct(self) -> bool:
        return is_correct(self.question.type, self.answer, self.question.answer)

    @property
    def row(self) -> dict[str, Any]:
        """The row of the answer in files of results."""
        asked = self.question
        return {"id": asked.id, "type": asked.type, "answer": self.answer, "correct": self.correct}


def read_questions(folder: Path, split: Split) -> list[Question]:
    """The questions of one half in a folder; raises ``UserError`` if it has none."""
    file, fix = folder / "questions.jsonl", f"write them with: python -m data.digits --out {folder.parent}"
    if not file.is_file():
        raise UserError(f"{file}: no such questions; {fix}")
    lines = file.read_text(encoding="utf-8").splitlines()
    questions = [_question(json.loads(line), folder / "images") for line in lines]
    if chosen := [question for question in questions if question.split is split]:
        return chosen
    raise UserError(f"{file}: has no questions of the {split} half; {fix}")


def _question(fields: dict, images: Path) -> Question:
    media = fields.get("video") or fields.get("image") or []
    paths = [images / path for path in ([media] if isinstance(media, str) else media)]
    return Question(
        fields["id"],
        fields["type"],
        paths,
        "video" in fields,
        fields["question"],
        fields["answer"],
        Split(fields.get("split", Split.validation)),
    )


def with_suffixes(questions: Sequence[Question], suffixes: Mapping[str, Suffix]) -> list[Question]:
    """The questions with the suffix (``/think`` or ``/no_think``) that the stage appends for their source."""
    texts = {source: suffix.text for source, suffix in suffixes.items()}
    return [
        replace(q, text=q.text + texts.get(SOURCE_OF_TYPE.get(q.type, DEFAULT_SOURCE), "")) for q in questions
    ]


def answer_questions(
    model: LLaDAV,
    tokenizer: ChatTokenizer,
    questions: Sequence[Question],
    options: DecodingOptions,
    batch: int,
) -> Iterator[Answered]:
    """The model's answers, decoded in batches of ``batch`` questions."""
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        decoded = decode(model, [prompt(question, model, tokenizer) for question in part], options)
        for question, answer in zip(part, decoded, strict=True):
            yield Answered(question, tokenizer.decode(answer.tokens))


def text_of_json(answer: str) -> str:
    """A JSON answer as the text that is compared: the property ``answer`` of an object, if it has one.

    Items of an array are separated by commas, as in the correct answers.
    """
    value = json.loads(answer)
    value = value.get("answer", value) if isinstance(value, dict) else value
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def prompt(question: Question, model: LLaDAV, tokenizer: ChatTokenizer) -> Sample:
    """The question and its images as the model's input."""
    return question_prompt(question.id, question.text, _visuals(question, model), tokenizer)


def _visuals(question: Question, model: LLaDAV) -> list[Visual]:
    if question.is_video:
        count = model.config.images.inference_frames
        return [read_clip(path, count, model.geometry) for path in question.media]
    return prepare_images([_image(path, model.geometry.pixels) for path in question.media], model.geometry)


def _image(path: Path, pixels: Pixels) -> Image.Image:
    with path.open("rb") as stream:
        return read_image(stream, path.name, pixels)
