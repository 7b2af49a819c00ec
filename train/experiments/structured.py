"""Exact match on held-out questions that are asked freely and with a structure of the answer.

A trial asks all questions with one structure: ``free`` (none), ``text`` (a regular expression), ``value``
(the answer as JSON), ``object`` (a JSON object with the answer), ``steps`` (the same with a property for the
steps of a calculation before the answer), or ``started`` (only the beginning of the object is fixed, and
nothing restricts the rest: what JSON costs without a constraint). Questions, images, weights and prompts are
the same. The wording of a question decides what its answer may be; the correct answer never does.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lladav.config.introspection import choices_hint
from lladav.errors import UserError
from lladav.storage.local_cache import local_model
from lladav.structured.compiling import StructureKind, StructureSpec, compile_structure
from train.evaluate import BATCH, MAX_TOKENS, decoding_options, usual_decoding
from train.experiments.accuracy import draw
from train.experiments.kind import ANSWERS, Kind, Measured, Measurement, Subject
from train.experiments.questions import QuestionOptions, asked, questions_key
from train.experiments.significance import PairedComparison
from train.experiments.tables import accuracy_table, markdown_table

if TYPE_CHECKING:
    from lladav.decoding.params import DecodingOptions
    from lladav.inputs.chat import ChatTokenizer
    from train.evaluation.held_out import Question

STRUCTURE, FREE = "structure", "free"
"""Key of ``Trial.decoding``, and its value for answers without a structure."""

JSON_TOKENS = 64
"""Length of the canvas of a JSON answer."""


@dataclass(frozen=True)
class AnswerSpace:
    """What the answer to a question may be, as text and as a JSON value."""

    pattern: str
    """Regular expression of the whole text."""
    schema: Mapping[str, Any]
    """JSON Schema of the value."""
    steps: str = ""
    """Regular expression of the steps that lead to the answer, if there are any."""


def words(*names: str) -> AnswerSpace:
    """One of some words."""
    return AnswerSpace("|".join(names), {"enum": list(names)})


DIGIT = AnswerSpace("[0-9]", {"enum": list(range(10))})
NUMBER = AnswerSpace("[0-9]{1,2}", {"type": "integer", "minimum": 0, "maximum": 99})
READING = AnswerSpace("[0-9]{1,9}", {"type": "string", "pattern": "^[0-9]{1,9}$"})
STEPS = (
    "([0-9][+-][0-9]=[0-9]{1,2}(, [0-9]{1,2}[+][0-9]=[0-9]{1,2})?"
    "|largest [0-9], smallest [0-9], [0-9]-[0-9]=[0-9])"
)
CALCULATION = AnswerSpace(f"{STEPS}\\. Answer: [0-9]{{1,2}}", NUMBER.schema, STEPS)
SPACES: Sequence[tuple[str, AnswerSpace]] = (
    ("Think step by step", CALCULATION),
    ("even or odd", words("even", "odd")),
    ("the first digit or the last digit", words("first", "last", "equal")),
    ("[Hh]ow many|[Cc]ount|number of digits", NUMBER),
    (r"^What is \d+ [+-] \d", NUMBER),
    (r"largest|smallest|biggest|Which is larger|What is the \w+ digit", DIGIT),
)
"""Wordings of questions and what their answers may be, the first that fits; the others are readings."""


def answer_space(question: Question) -> AnswerSpace:
    """What the answer to a question may be."""
    if "of each image" in question.text:
        return _readings(len(question.media))
    return next((space for wording, space in SPACES if re.search(wording, question.text)), READING)


def _readings(images: int) -> AnswerSpace:
    """A reading of each image."""
    schema = {"type": "array", "items": READING.schema, "minItems": images, "maxItems": images}
    return AnswerSpace(", ".join([READING.pattern] * images), schema)


def text_spec(space: AnswerSpace) -> StructureSpec:
    """The structure of an answer that is a text."""
    return StructureSpec(StructureKind.regex, space.pattern)


def value_spec(space: AnswerSpace) -> StructureSpec:
    """The structure of an answer that is a JSON value."""
    return StructureSpec(StructureKind.json_schema, json.dumps(space.schema))


def object_spec(space: AnswerSpace) -> StructureSpec:
    """The structure of an answer that is a JSON object with one property."""
    return _object_of({"answer": space.schema})


def steps_spec(space: AnswerSpace) -> StructureSpec:
    """The structure of an answer that is a JSON object, which states the steps first if there are any."""
    steps = {"steps": {"type": "string", "pattern": f"^{space.steps}$"}} if space.steps else {}
    return _object_of({**steps, "answer": space.schema})


def _object_of(properties: Mapping[str, Mapping[str, Any]]) -> StructureSpec:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return StructureSpec(StructureKind.json_schema, json.dumps(schema))


@dataclass(frozen=True)
class AskedStructure:
    """How a trial asks."""

    spec: Callable[[AnswerSpace], StructureSpec] | None
    max_tokens: int
    is_json: bool = True
    """Whether answers are JSON; otherwise they are texts as free answers are."""
    start: str = ""
    """The fixed beginning of an answer without a spec."""

    def text_of(self, answer: str) -> str:
        """An answer as the text that is compared; a free one that is not JSON stays as it is."""
        from train.evaluation.held_out import text_of_json

        try:
            return text_of_json(answer) if self.is_json else answer
        except ValueError:
            if self.spec:
                raise
            return answer


STRUCTURES: Mapping[str, AskedStructure | None] = {
    FREE: None,
    "text": AskedStructure(text_spec, MAX_TOKENS, is_json=False),
    "value": AskedStructure(value_spec, JSON_TOKENS),
    "object": AskedStructure(object_spec, JSON_TOKENS),
    "steps": AskedStructure(steps_spec, JSON_TOKENS),
    "started": AskedStructure(None, MAX_TOKENS, start='{"answer": '),
}


def measure(subject: Subject) -> Measurement:
    """The answers, and the seconds of decoding; raises ``UserError`` for an unknown structure."""
    import torch

    from lladav.checkpoint import open_model
    from lladav.inputs.chat import ChatTokenizer
    from train.evaluation.held_out import answer_questions

    structure = structure_named(subject.trial.decoding.get(STRUCTURE, FREE))
    weights, questions = local_model(subject.weights), asked(subject)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = open_model(weights, torch.float32, device), ChatTokenizer.load(weights)
    rows, begin = {}, time.monotonic()
    for spec, group in by_spec(questions, structure).items():
        options = _options(subject, structure, spec, tokenizer)
        for answered in answer_questions(model, tokenizer, group, options, BATCH):
            read = replace(answered, answer=structure.text_of(answered.answer)) if structure else answered
            rows[read.question.id] = read.row
    seconds = round(time.monotonic() - begin, 1)
    return {ANSWERS: [rows[question.id] for question in questions], "decoding_seconds": seconds}


def structure_named(name: str) -> AskedStructure | None:
    """How a trial asks; raises ``UserError`` for an unknown name."""
    if name not in STRUCTURES:
        raise UserError(f"decoding.{STRUCTURE}={name}: no such choice{choices_hint(name, STRUCTURES)}")
    return STRUCTURES[name]


def by_spec(
    questions: Iterable[Question], structure: AskedStructure | None
) -> dict[StructureSpec | None, list[Question]]:
    """The questions by the structure of their answers, which are decoded together."""
    groups: dict[StructureSpec | None, list[Question]] = defaultdict(list)
    for question in questions:
        spec = structure and structure.spec and structure.spec(answer_space(question))
        groups[spec].append(question)
    return groups


def _options(
    subject: Subject,
    structure: AskedStructure | None,
    spec: StructureSpec | None,
    tokenizer: ChatTokenizer,
) -> DecodingOptions:
    changed = {key: value for key, value in subject.trial.decoding.items() if key != STRUCTURE}
    if structure and spec:
        compiled = compile_structure(spec, tokenizer, structure.max_tokens)
        block = changed.get("block_length", usual_decoding(subject.config)["block_length"])
        canvas = -(-compiled.max_tokens // block) * block
        changed |= {"max_tokens": canvas, "outline": compiled.outline}
    elif structure:
        fixed = dict(enumerate(tokenizer.encode(structure.start)))
        changed |= {"max_tokens": structure.max_tokens, "infill": fixed}
    return decoding_options(subject.config, tokenizer.ids, changed)


def tables(trials: Sequence[Measured]) -> str:
    """Exact match by type of question, then each trial compared with the first one."""
    first, *others = trials
    compared = [comparison_table(first, other) for other in others]
    return "\n\n".join([accuracy_table(trials), *compared])


def comparison_table(first: Measured, second: Measured) -> str:
    """Questions of each type that only one of two trials answers correctly, and McNemar's exact test."""
    one, two = _correct_by_type(first), _correct_by_type(second)
    rows = [
        [kind, str(paired.only_second), str(paired.only_first), f"{paired.p_value:.3f}"]
        for kind in one
        for paired in [PairedComparison.of(one[kind], two[kind])]
    ]
    header = [f"{second.trial.name} against {first.trial.name}", "gained", "lost", "p (McNemar)"]
    return markdown_table(header, rows)


def _correct_by_type(measured: Measured) -> dict[str, dict[str, bool]]:
    """Whether each question is answered correctly, by type and for all."""
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in measured.measurement[ANSWERS]:
        found[row["type"]][row["id"]] = row["correct"]
    return {**found, "all": {name: right for of_type in found.values() for name, right in of_type.items()}}


STRUCTURED = Kind(measure, questions_key, tables, draw, QuestionOptions)
