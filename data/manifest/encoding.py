"""The text side of a record: image marks, suffix, template, and the cut at the longest length.

Everything here is decided from sizes; no image is decoded. A cut never goes through the tokens of an image:
it falls before it, and the image is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from data.manifest.spec import Preparation
from data.records.record import BadSample, Reason, Record
from lladav.config.schema import MissingMark, Suffix, Template
from lladav.errors import UserError
from lladav.inputs.chat import (
    IMAGE_MARK,
    ChatTokenizer,
    Message,
    count_image_marks,
    encode_chat,
    encode_plain,
    move_mark_to_front,
    parse_conversation,
)
from lladav.inputs.images import image_kind, token_count
from lladav.inputs.types import IMAGE_PLACEHOLDER, Encoded, VisualKind, VisualShape

VIDEO_MARK = "<video>"


@dataclass(frozen=True)
class EncodedRecord:
    """The text as far as it is kept, how many of the visuals are, and whether anything was cut off."""

    text: Encoded
    visuals: int
    visual_tokens: int
    was_cut: bool

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.text.input_ids) - self.visuals + self.visual_tokens


class Encoder:
    """Turns records into token ids as the stage wants them."""

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._tokenizer = ChatTokenizer.load(preparation.tokenizer)

    def kind_of(self, record: Record) -> VisualKind:
        """How each of the record's pictures becomes tokens."""
        if record.is_video:
            return VisualKind.video
        return image_kind(len(record.media), self._preparation.images)

    def draws_suffix(self, source: int, sample_id: str) -> bool:
        """Whether the record's human turns get the suffix of its source; follows from seed and id alone."""
        suffix = self._suffix(source)
        return suffix is not None and unit_hash(self._preparation.seed, sample_id) < suffix.probability

    def encode(
        self, record: Record, source: int, suffixed: bool, shapes: Sequence[VisualShape]
    ) -> EncodedRecord:
        """Token ids of a record of the source with this number.

        Raises ``BadSample`` for marks that do not match the pictures and for an answer that is cut off whole.
        """
        suffix = self._suffix(source) if suffixed else None
        messages = self._messages(record, suffix.text if suffix else "")
        marks = count_image_marks(messages)
        if marks != len(shapes):
            raise BadSample(
                Reason.image_count, f"{marks} {IMAGE_MARK} marks for {len(shapes)} images or videos"
            )
        tokens = [token_count(shape, self._preparation.geometry) for shape in shapes]
        encoded = cut(self._encode(messages, record.id), tokens, self._preparation.max_length)
        if not np.any(encoded.text.answer & encoded.text.supervised):
            raise BadSample(
                Reason.answer_cut, f"no token of an answer lies within {self._preparation.max_length} tokens"
            )
        return encoded

    def _suffix(self, source: int) -> Suffix | None:
        return self._preparation.suffixes.get(self._preparation.sources[source].name)

    def _messages(self, record: Record, suffix: str) -> list[Message]:
        try:
            messages = parse_conversation(record.conversations)
        except UserError as error:
            raise BadSample(Reason.bad_record, str(error)) from None
        if record.is_video:
            messages = _with_usual_marks(messages)
        if record.media and self._preparation.missing_mark is MissingMark.prepend:
            messages = _marked(messages, len(record.media))
        messages = [_suffixed(message, suffix) for message in messages]
        if not record.media:
            return messages
        return [replace(m, content=move_mark_to_front(m.content)) for m in messages]

    def _encode(self, messages: Sequence[Message], record_id: str) -> Encoded:
        if self._preparation.template is Template.plain:
            return encode_plain(messages, self._tokenizer)
        tail = eos_tail(record_id, self._preparation.eos_tail)
        return encode_chat(messages, self._tokenizer, self._preparation.supervise, tail)


def cut(text: Encoded, visual_tokens: Sequence[int], max_length: int) -> EncodedRecord:
    """The longest beginning of a conversation within ``max_length`` tokens, visual ones included."""
    weights = np.ones(len(text.input_ids), np.int64)
    weights[text.input_ids == IMAGE_PLACEHOLDER] = visual_tokens
    kept = int(np.searchsorted(np.cumsum(weights), max_length, side="right"))
    if kept < len(weights):
        text = Encoded(*(getattr(text, field.name)[:kept] for field in fields(Encoded)))
    visuals = int(np.count_nonzero(text.input_ids == IMAGE_PLACEHOLDER))
    return EncodedRecord(text, visuals, sum(visual_tokens[:visuals]), kept < len(weights))


def eos_tail(record_id: str, longest: int) -> int:
    """How many EOS follow the record's last eot: up to ``longest``, as a fixed number would tell the answer's
    length.
    """
    return int(unit_hash(0, f"eos tail/{record_id}") * (longest + 1))


def unit_hash(seed: int, sample_id: str) -> float:
    """A number in [0, 1) that follows from seed and id alone."""
    digest = hashlib.blake2b(f"{seed}:{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _with_usual_marks(messages: Sequence[Message]) -> list[Message]:
    """A video may be marked as such where no image mark stands for it."""
    if count_image_marks(messages):
        return list(messages)
    return [replace(m, content=m.content.replace(VIDEO_MARK, IMAGE_MARK)) for m in messages]


def _marked(messages: Sequence[Message], media: int) -> list[Message]:
    """Where there is no mark at all, one for each image or video in front of the first question."""
    first = next((number for number, m in enumerate(messages) if m.role == "user"), None)
    if first is None or count_image_marks(messages):
        return list(messages)
    question = replace(messages[first], content=f"{IMAGE_MARK}\n" * media + messages[first].content)
    return [*messages[:first], question, *messages[first + 1 :]]


def _suffixed(message: Message, suffix: str) -> Message:
    """The suffix goes to the user's turns before their marks move, as in the released data sets."""
    return replace(message, content=message.content + suffix) if message.role == "user" else message
