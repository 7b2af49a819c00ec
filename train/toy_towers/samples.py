"""Training samples from records of digits, as text alone or with pixels.

For the language tower, images are spelled as characters (``data.digits.corpus``). Of an answer in a JSON
frame only the values are predicted; the frame is given, as a server writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.digits import corpus, questions
from data.digits.json_answers import JsonPart, whole_text
from data.digits.records import DigitRecord, DigitVisual
from data.digits.scenes import paint
from data.manifest.encoding import eos_tail, unit_hash
from lladav.config.schema import Supervise
from lladav.inputs.chat import (
    SYSTEM_PROMPT,
    ChatTokenizer,
    Message,
    encode_chat,
    encode_plain,
    encode_prompt,
    parse_conversation,
)
from lladav.inputs.images import ViewGeometry, image_kind, prepare_image, prepare_video
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded, Sample, Visual, VisualKind

LONGEST_TAIL = 40
"""EOS ids behind an answer, at most: as many as the masks behind a short answer that is decoded.

With a shorter tail the number of masks would tell the model how long the answer is, and many masks would ask
for JSON.
"""

SUFFIX_SHARE = 0.3
"""Share of questions that end in /think or /no_think."""


class Lesson(NamedTuple):
    """A record for training. With ``frame`` its only answer consists of these parts."""

    record: DigitRecord
    frame: Sequence[JsonPart] = ()
    opening: float | None = None
    """Share of the text behind the first part that is given with it; None: all that is no value is given."""
    system: str = SYSTEM_PROMPT


class SampleWriter:
    """Makes training samples from lessons."""

    def __init__(self, tokenizer: ChatTokenizer, geometry: ViewGeometry) -> None:
        self._tokenizer, self._geometry = tokenizer, geometry
        signs = corpus.SIGNS + corpus.DOT + corpus.LINE_END
        self._ids = {sign: tokenizer.encode(sign)[0] for sign in signs}

    def seen(self, lesson: Lesson) -> Sample:
        """The sample with its images as views."""
        record = lesson.record
        visuals = [_prepared(visual, kind_of(record), self._geometry) for visual in record.visuals]
        return Sample(record.id, self._text(lesson), visuals)

    def spelled(self, lesson: Lesson, base_view_only: bool = False) -> Sample:
        """The sample as text; ``base_view_only`` leaves the tiles out."""
        record, text = lesson.record, self._text(lesson)
        kind = kind_of(record)
        if base_view_only and kind is VisualKind.tiled:
            kind = VisualKind.square
        pieces, start = [], 0
        positions = np.flatnonzero(text.input_ids == IMAGE_PLACEHOLDER)
        for position, visual in zip(positions.tolist(), record.visuals, strict=True):
            pieces += [text.part(start, position), _given(self._spelling(visual, kind))]
            start = position + 1
        pieces.append(text.part(start, len(text.input_ids)))
        return Sample(record.id, Encoded.joined(pieces))

    def characters(self, record: DigitRecord) -> list[int]:
        """The ids of the characters that spell the record's images, one per visual token."""
        kind = kind_of(record)
        return [token for visual in record.visuals for token in self._spelling(visual, kind)]

    def _spelling(self, visual: DigitVisual, kind: VisualKind) -> list[int]:
        return [self._ids[sign] for sign in corpus.visual_characters(visual, kind, self._geometry)]

    def _text(self, lesson: Lesson) -> Encoded:
        record = lesson.record
        turns = parse_conversation(record.conversations(), lesson.system)
        messages = [_suffixed(message, record) for message in turns]
        if record.kind == "caption":
            return encode_plain(messages, self._tokenizer)
        tail = eos_tail(record.id, LONGEST_TAIL)
        if not lesson.frame:
            return encode_chat(messages, self._tokenizer, Supervise.answers, tail)
        prompt = encode_prompt(messages[:-1], self._tokenizer)
        if lesson.opening is None:
            return Encoded.joined([prompt, *(self._in_frame(part) for part in lesson.frame)])
        ids = self._tokenizer.encode(whole_text(lesson.frame))
        first = len(self._tokenizer.encode(lesson.frame[0].text))
        given = first + int(lesson.opening * (len(ids) - first))
        ended = [*ids[given:], self._tokenizer.ids.eot, *[self._tokenizer.ids.eos] * tail]
        return Encoded.joined([prompt, _given(ids[:given]), _supervised(ended)])

    def _in_frame(self, part: JsonPart) -> Encoded:
        """A value is predicted with its padding; anything else is given."""
        ids = self._tokenizer.encode(part.text)
        if not part.is_value:
            return _given(ids)
        return _supervised([*ids, *[self._tokenizer.ids.eos] * part.padding])


def kind_of(record: DigitRecord) -> VisualKind:
    """How the record's images become views."""
    if record.kind == "caption":
        return VisualKind.square
    if record.visuals and record.visuals[0].is_video:
        return VisualKind.video
    return image_kind(len(record.visuals))


def _prepared(visual: DigitVisual, kind: VisualKind, geometry: ViewGeometry) -> Visual:
    images = [paint(scene) for scene in visual.scenes]
    return prepare_video(images, geometry) if visual.is_video else prepare_image(images[0], kind, geometry)


def _suffixed(message: Message, record: DigitRecord) -> Message:
    """Append /think or /no_think to some questions, as the last stage does."""
    if message.role != "user" or unit_hash(0, f"suffix/{record.id}") >= SUFFIX_SHARE:
        return message
    return Message(message.role, message.content + questions.SUFFIXES[record.kind == "arithmetic"])


def _given(ids: Sequence[int]) -> Encoded:
    values = np.array(ids, np.int32)
    return Encoded(values, np.full_like(values, IGNORED), np.zeros_like(values), np.zeros(len(ids), bool))


def _supervised(ids: Sequence[int]) -> Encoded:
    values = np.array(ids, np.int32)
    return Encoded(values, values, np.zeros_like(values), np.ones(len(ids), bool))
