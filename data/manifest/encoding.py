"""The text of a record as token ids: image marks, suffix, template, and the cut to ``max_length``.

Encoding needs the shapes of images but no pixels. An image whose tokens do not all fit within ``max_length``
is dropped together with everything after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.manifest.spec import ManifestSpec
from data.records.record import BadSample, Reason, Record
from lladav.config.schema import MissingMark, Suffix, Template
from lladav.errors import UserError
from lladav.inputs.chat import (
    IMAGE_MARK,
    ChatTokenizer,
    Message,
    TokenRuns,
    chat_runs,
    count_image_marks,
    move_mark_to_front,
    parse_conversation,
    plain_runs,
)
from lladav.inputs.images import image_kind, token_count
from lladav.inputs.samples import IMAGE_PLACEHOLDER, Encoded, VisualKind, VisualShape

VIDEO_MARK = "<video>"


@dataclass(frozen=True)
class EncodedRecord:
    """The text that was kept, the number of images or videos in it, and whether anything was cut off."""

    text: Encoded
    visuals: int
    visual_tokens: int
    was_cut: bool

    @property
    def length(self) -> int:
        """Number of tokens, visual tokens included."""
        return len(self.text.input_ids) - self.visuals + self.visual_tokens


@dataclass(frozen=True)
class SampleCounts:
    """The counts of an encoded record; ``supervised`` are positions that carry loss."""

    length: int
    visual_tokens: int
    supervised: int
    was_cut: bool


class Encoder:
    """Encodes records by the settings of a stage."""

    def __init__(self, spec: ManifestSpec) -> None:
        self._spec = spec
        self._tokenizer = ChatTokenizer.load(spec.tokenizer)

    def kind_of(self, record: Record) -> VisualKind:
        """The kind of each image or video of a record."""
        if record.is_video:
            return VisualKind.video
        return image_kind(len(record.media), self._spec.images)

    def draws_suffix(self, source: int, sample_id: str) -> bool:
        """Whether the human turns of a sample get the suffix of its source; depends on seed and id only."""
        suffix = self._suffix(source)
        return suffix is not None and unit_hash(self._spec.seed, sample_id) < suffix.probability

    def encode(
        self, record: Record, source: int, suffixed: bool, shapes: Sequence[VisualShape]
    ) -> EncodedRecord:
        """Encode a record of the source with number ``source``; ``shapes`` are those of its media.

        Raises ``BadSample`` if the image marks do not match the media and if no token of an answer is left.
        """
        return self._cut(*self._runs(record, source, suffixed, shapes))

    def count(
        self, record: Record, source: int, suffixed: bool, shapes: Sequence[VisualShape]
    ) -> SampleCounts:
        """The counts of ``encode``, which raises the same errors; takes less time if nothing is cut off."""
        runs, tokens = self._runs(record, source, suffixed, shapes)
        visual_tokens = sum(tokens)
        length = len(runs) - len(tokens) + visual_tokens
        if length <= self._spec.max_length and runs.supervised_answers:
            return SampleCounts(length, visual_tokens, runs.supervised, False)
        cut_off = self._cut(runs, tokens)
        supervised = int(np.count_nonzero(cut_off.text.supervised))
        return SampleCounts(cut_off.length, cut_off.visual_tokens, supervised, cut_off.was_cut)

    def _cut(self, runs: TokenRuns, visual_tokens: Sequence[int]) -> EncodedRecord:
        encoded = cut(runs.encoded(self._tokenizer.mark_id), visual_tokens, self._spec.max_length)
        if not np.any(encoded.text.answer & encoded.text.supervised):
            raise BadSample(
                Reason.answer_cut, f"no token of an answer lies within {self._spec.max_length} tokens"
            )
        return encoded

    def _runs(
        self, record: Record, source: int, suffixed: bool, shapes: Sequence[VisualShape]
    ) -> tuple[TokenRuns, list[int]]:
        """The text of a record, and the number of tokens of each image or video."""
        suffix = self._suffix(source) if suffixed else None
        messages = self._messages(record, suffix.text if suffix else "")
        marks = count_image_marks(messages)
        if marks != len(shapes):
            raise BadSample(
                Reason.image_count, f"{marks} {IMAGE_MARK} marks for {len(shapes)} images or videos"
            )
        tokens = [token_count(shape, self._spec.geometry) for shape in shapes]
        return self._text_runs(messages, record.id), tokens

    def _suffix(self, source: int) -> Suffix | None:
        return self._spec.suffixes.get(self._spec.sources[source].name)

    def _messages(self, record: Record, suffix: str) -> list[Message]:
        try:
            messages = parse_conversation(record.conversations)
        except UserError as error:
            raise BadSample(Reason.bad_record, str(error)) from None
        if record.is_video:
            messages = _with_image_marks(messages)
        if record.media and self._spec.missing_mark is MissingMark.prepend:
            messages = _prepend_marks(messages, len(record.media))
        if suffix:
            messages = [_with_suffix(message, suffix) for message in messages]
        return [_with_mark_in_front(message) for message in messages] if record.media else messages

    def _text_runs(self, messages: Sequence[Message], record_id: str) -> TokenRuns:
        if self._spec.template is Template.plain:
            return plain_runs(messages, self._tokenizer)
        tail = eos_tail(record_id, self._spec.eos_tail)
        return chat_runs(messages, self._tokenizer, self._spec.supervise, tail)


def cut(text: Encoded, visual_tokens: Sequence[int], max_length: int) -> EncodedRecord:
    """Cut a conversation to ``max_length`` tokens; ``visual_tokens`` are those of each image or video."""
    if len(text.input_ids) - len(visual_tokens) + sum(visual_tokens) <= max_length:
        return EncodedRecord(text, len(visual_tokens), sum(visual_tokens), False)
    tokens = np.ones(len(text.input_ids), np.int64)
    tokens[text.input_ids == IMAGE_PLACEHOLDER] = visual_tokens
    kept = int(np.searchsorted(np.cumsum(tokens), max_length, side="right"))
    if kept < len(tokens):
        text = text.part(0, kept)
    visuals = int(np.count_nonzero(text.input_ids == IMAGE_PLACEHOLDER))
    return EncodedRecord(text, visuals, sum(visual_tokens[:visuals]), kept < len(tokens))


def eos_tail(record_id: str, longest: int) -> int:
    """Number of EOS after a record's last eot, from 0 to ``longest``; depends on the id only.

    The number varies because the model could infer the length of the answer from a fixed one.
    """
    return int(unit_hash(0, f"eos tail/{record_id}") * (longest + 1))


def unit_hash(seed: int, sample_id: str) -> float:
    """A pseudo-random number in [0, 1) that depends on seed and id only."""
    digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _with_image_marks(messages: Sequence[Message]) -> list[Message]:
    """Replace ``<video>`` marks by image marks, unless the messages have an image mark already."""
    if count_image_marks(messages):
        return list(messages)
    return [replace(m, content=m.content.replace(VIDEO_MARK, IMAGE_MARK)) for m in messages]


def _prepend_marks(messages: Sequence[Message], media: int) -> list[Message]:
    """Put a mark for each image or video before the first question, unless the messages have marks."""
    first = next((number for number, m in enumerate(messages) if m.role == "user"), None)
    if first is None or count_image_marks(messages):
        return list(messages)
    question = replace(messages[first], content=f"{IMAGE_MARK}\n" * media + messages[first].content)
    return [*messages[:first], question, *messages[first + 1 :]]


def _with_mark_in_front(message: Message) -> Message:
    content = move_mark_to_front(message.content)
    return message if content == message.content else replace(message, content=content)


def _with_suffix(message: Message, suffix: str) -> Message:
    """Append the suffix to a user's turn; as in the released data sets, this comes before marks are moved."""
    return replace(message, content=message.content + suffix) if message.role == "user" else message
