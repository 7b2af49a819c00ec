"""Chat templates, supervised labels and turn ids.

As released, training keeps the white space around a message's content and inference strips it. Content never
becomes a special token: ``<|eot_id|>`` in a message is encoded as those characters, so that a message cannot
forge the structure of its conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from lladav.config.schema import ModelConfig, Supervise, TokenIds
from lladav.errors import UserError
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded
from lladav.storage import model_location
from lladav.storage.local_cache import local_copy

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that "
    "the user provides, and assist the user with a variety of tasks using natural language."
)
IMAGE_MARK = "<image>"
TEXT_VERSION = 2
"""Version of the rules in this module; prepared data of another version is rebuilt. Increase it if a record
gets other token ids or labels. Version 1 stripped contents and did not move image marks."""
STRAY_TEXT = "QA_GT_caption_based_noisy"
"""In the questions of a published video set by mistake; the released trainer removes it."""
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
MIN_CHARACTERS_WITHOUT_GIL = 4096
"""Texts of at least this many characters are encoded without the GIL."""
MAX_REPEATED_CHARACTERS, REPEATED_TEXTS = 512, 256
"""The ids of this many texts of at most this many characters are kept: all conversations share roles, line
ends and system prompts."""
SPECIAL_TOKENS = {
    "mask": "<|mdm_mask|>",
    "bos": "<|startoftext|>",
    "eos": "<|endoftext|>",
    "start_header": "<|start_header_id|>",
    "end_header": "<|end_header_id|>",
    "eot": "<|eot_id|>",
}
"""Names of LLaDA's special tokens by role."""
LLAMA3_SPECIAL_TOKENS = {
    "bos": "<|begin_of_text|>",
    "eos": "<|end_of_text|>",
    "start_header": "<|start_header_id|>",
    "end_header": "<|end_header_id|>",
    "eot": "<|eot_id|>",
}
"""Names of Llama 3's special tokens by role. The released trainer uses its chat template for both models."""


@dataclass(frozen=True)
class Message:
    """One turn; ``role`` is system, user or assistant, and ``content`` has a mark for each image."""

    role: str
    content: str
    mark: str = IMAGE_MARK
    """The mark; for untrusted text, one that its author cannot guess."""


class ChatTokenizer:
    """A byte-level BPE tokenizer, and the ids and names of the chat template's special tokens by role."""

    def __init__(
        self, tokenizer: Tokenizer, ids: TokenIds, names: Mapping[str, str] = SPECIAL_TOKENS
    ) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.ids, self.names = ids, names
        self._encode_repeated = lru_cache(REPEATED_TEXTS)(self._encode)

    @classmethod
    def load(cls, folder: str | Path) -> ChatTokenizer:
        """Read ``tokenizer.json`` in a folder or URI.

        Raises ``UserError`` if the file is missing or lacks a special token.
        """
        file = tokenizer_file(folder)
        tokenizer = _read_tokenizer(file)
        names = min(SPECIAL_TOKENS, LLAMA3_SPECIAL_TOKENS, key=lambda each: len(_missing(each, tokenizer)))
        if missing := _missing(names, tokenizer):
            raise UserError(
                f"{file}: lacks the special tokens {', '.join(missing)}; use LLaDA's or Llama 3's tokenizer"
            )
        ids = {role: tokenizer.token_to_id(name) for role, name in names.items()}
        return cls(tokenizer, TokenIds(**{"mask": None, **ids}), names)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def mark_id(self) -> int:
        """The label of an image mark: the released trainer registers the mark as a new token."""
        known = self._tokenizer.token_to_id(IMAGE_MARK)
        return self.vocab_size if known is None else known

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; special tokens in it are encoded as ordinary characters."""
        return [*self._encode_repeated(text)] if len(text) <= MAX_REPEATED_CHARACTERS else self._encode(text)

    def _encode(self, text: str) -> list[int]:
        if len(text) < MIN_CHARACTERS_WITHOUT_GIL:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        # encode_batch_fast releases the GIL, so other threads run while a long text is encoded.
        (encoded,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return encoded.ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Return the text of ids, with the names of special tokens only if ``special`` is true."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=not special)

    def token_name(self, token: int) -> str:
        """Return the name of a token in the vocabulary; empty for an unknown id."""
        return self._tokenizer.id_to_token(token) or ""

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a token; empty for special tokens and unknown ids.

        ``decode`` returns the concatenated bytes of its ids, with U+FFFD for bytes that are not UTF-8.
        """
        return self._bytes.get(token, b"")

    @cached_property
    def answer_header(self) -> list[int]:
        """The ids in front of an answer: the header of the assistant's turn and its line ends."""
        ids = self.ids
        return [ids.start_header, *self.encode("assistant"), ids.end_header, *self.encode("\n\n")]

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        added = self._tokenizer.get_added_tokens_decoder()
        names = self._tokenizer.get_vocab(with_added_tokens=True)
        return {
            token: _bytes_of_name(name)
            for name, token in names.items()
            if not (token in added and added[token].special)
        }


def check_special_tokens(model: ModelConfig, tokenizer: ChatTokenizer, where: str = "model.") -> None:
    """Raise ``UserError`` if ``model.tokens`` differs from the tokenizer; ``where`` begins the error line."""
    own = vars(tokenizer.ids)
    for role, token in vars(model.tokens).items():
        if token is None or token == own[role]:
            continue
        key = f"{where}tokens.{role}={token}: {model.tokenizer}"
        if own[role] is None:
            raise UserError(f"{key} has no {role} token; set null or use another tokenizer")
        name = tokenizer.names[role]
        raise UserError(f"{key} gives {name} the id {own[role]}; set that id or use another tokenizer")


def _missing(names: Mapping[str, str], tokenizer: Tokenizer) -> list[str]:
    """The names of special tokens that a tokenizer lacks."""
    return [name for name in names.values() if tokenizer.token_to_id(name) is None]


def _alphabet() -> dict[str, int]:
    """The byte for each character in the names of byte-level tokens, as in GPT-2.

    Printable bytes are their own character; the others are the characters from U+0100 on, in order.
    """
    printable = set(ByteLevel.alphabet())
    others = map(chr, count(256))
    return {chr(byte) if chr(byte) in printable else next(others): byte for byte in range(256)}


ALPHABET = _alphabet()


def _bytes_of_name(name: str) -> bytes:
    if all(character in ALPHABET for character in name):
        return bytes(ALPHABET[character] for character in name)
    return name.encode()  # the name of an added token may be plain text


def tokenizer_file(folder: str | Path) -> Path:
    """Return the local path of ``tokenizer.json`` in a folder, URI or hub id; a local file need not exist."""
    return local_copy(model_location(folder) / "tokenizer.json")


def _read_tokenizer(file: Path) -> Tokenizer:
    fix = "point model.tokenizer at a folder that holds tokenizer.json"
    if not file.is_file():
        raise UserError(f"{file}: no such tokenizer; {fix}")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises no narrower class
        raise UserError(f"{file}: not a tokenizer ({error}); {fix}") from error


def parse_conversation(conversations: Sequence[dict[str, str]], system: str = SYSTEM_PROMPT) -> list[Message]:
    """Return the messages of a LLaVA-format record, beginning with a system turn.

    A leading assistant turn is dropped, as in the released trainer. Raises ``UserError`` for an unknown role,
    for a turn without text, and if no assistant turn is left.
    """
    turns = [_message(turn) for turn in conversations]
    if turns and turns[0].role == "assistant":
        turns = turns[1:]
    if not any(turn.role == "assistant" for turn in turns):
        raise UserError("no assistant turn in the conversation; add an answer or drop the record")
    own_system = bool(turns) and turns[0].role == "system"
    return turns if own_system else [Message("system", system), *turns]


def _message(turn: dict[str, str]) -> Message:
    speaker, value = turn.get("from"), turn.get("value")
    if speaker not in ROLES:
        raise UserError(f"unknown role {speaker!r} in the conversation; use human or gpt")
    if not isinstance(value, str):
        raise UserError(f"turn of {speaker} has no text; give it a 'value' string")
    return Message(ROLES[speaker], value)


def move_mark_to_front(content: str) -> str:
    """Rewrite the content of a turn as the released trainer does in a record with images or a video.

    If the content has exactly one mark and does not begin with it, the mark moves to a line of its own in
    front.
    """
    if content.count(IMAGE_MARK) == 1 and not content.startswith(IMAGE_MARK):
        content = f"{IMAGE_MARK}\n{content.replace(IMAGE_MARK, '').strip()}".strip()
    return content.replace(STRAY_TEXT, "")


def join_parts(parts: Sequence[str | None], mark: str = IMAGE_MARK) -> str:
    """Join the parts of a message, one per line; None is an image or video and becomes ``mark``.

    Images are moved in front of a single text: the model was trained with images before the question.
    """
    if sum(part is not None for part in parts) == 1:
        parts = sorted(parts, key=lambda part: part is not None)
    return "\n".join(mark if part is None else part for part in parts)


def chat_text(
    messages: Sequence[Message], answer_follows: bool = True, names: Mapping[str, str] = SPECIAL_TOKENS
) -> str:
    """Return a prompt as the chat template formats it at inference, with special tokens as text."""
    start, end, eot = (names[role] for role in ("start_header", "end_header", "eot"))
    turns = [f"{start}{m.role}{end}\n\n{m.content.strip()}{eot}" for m in messages]
    opening = [f"{start}assistant{end}\n\n"] if answer_follows else []
    return names["bos"] + "".join([*turns, *opening])


def encode_prompt(messages: Sequence[Message], tokenizer: ChatTokenizer, start: str = "") -> Encoded:
    """Encode a prompt: the conversation, the header of the assistant's answer and the ``start`` of the
    answer, without supervision.

    Contents are stripped, as by the released chat template; the start is not.
    """
    chat = encode_chat([replace(m, content=m.content.strip()) for m in messages], tokenizer)
    header = [*tokenizer.answer_header, *tokenizer.encode(start)]
    opening = TokenRuns()
    opening.add(header, int(chat.turns[-1]), labelled=False)
    prompt = Encoded.joined([chat, opening.encoded()])
    return replace(prompt, labels=np.full_like(prompt.labels, IGNORED), answer=np.zeros_like(prompt.answer))


def encode_chat(
    messages: Sequence[Message],
    tokenizer: ChatTokenizer,
    supervise: Supervise = Supervise.template,
    eos_tail: int = 0,
) -> Encoded:
    """Encode a training conversation, see ``chat_runs``."""
    return chat_runs(messages, tokenizer, supervise, eos_tail).encoded(tokenizer.mark_id)


def encode_plain(messages: Sequence[Message], tokenizer: ChatTokenizer) -> Encoded:
    """Encode images and caption, see ``plain_runs``."""
    return plain_runs(messages, tokenizer).encoded()


def chat_runs(
    messages: Sequence[Message],
    tokenizer: ChatTokenizer,
    supervise: Supervise = Supervise.template,
    eos_tail: int = 0,
) -> TokenRuns:
    """The tokens of a training conversation.

    Assistant turns with their header and eot are supervised and, as released, also every BOS, header and eot
    id of the other turns. With ``supervise=answers``, only the contents of assistant turns and their eot are.
    ``eos_tail`` supervised EOS ids follow the last turn. As released, the label of an image in an assistant
    turn is the id of the mark; packing drops that label.
    """
    chat, number = TokenRuns(supervise), 0
    chat.add([tokenizer.ids.bos], number, labelled=True)
    for message, number in zip(messages, _turn_numbers(messages), strict=True):
        _add_turn(chat, message, number, tokenizer)
    chat.add([tokenizer.ids.eos] * eos_tail, number, labelled=True, answer=True)
    return chat


def plain_runs(messages: Sequence[Message], tokenizer: ChatTokenizer) -> TokenRuns:
    """Images, caption and line end without roles or template. Caption and line end are supervised."""
    caption = next(m.content for m in messages if m.role == "assistant").replace(IMAGE_MARK, "")
    sample = TokenRuns()
    sample.add([IMAGE_PLACEHOLDER] * count_image_marks(messages), 0, labelled=False)
    sample.add(tokenizer.encode(caption + "\n"), 0, labelled=True, answer=True)
    return sample


def count_image_marks(messages: Sequence[Message]) -> int:
    """Return the number of image marks in the messages."""
    return sum(message.content.count(message.mark) for message in messages)


class TokenRuns:
    """Token ids in runs that are alike: of one turn, with loss or not, of an answer or not.

    The counts are known without building arrays.
    """

    def __init__(self, supervise: Supervise = Supervise.template) -> None:
        self._answers_only = supervise is Supervise.answers
        self._ids: list[int] = []
        self._sizes: list[int] = []
        self._kinds: list[int] = []
        self.supervised = self.supervised_answers = 0
        """Positions that carry loss; those of them in answers. Image placeholders carry none."""

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Sequence[int], turn: int, labelled: bool, answer: bool = False) -> None:
        """Append a run. A labelled run carries loss, unless only answers do."""
        labelled = labelled and (answer or not self._answers_only)
        self._ids += ids
        self._sizes.append(len(ids))
        self._kinds.append(4 * turn + 2 * labelled + answer)
        if labelled:
            count = len(ids) - ids.count(IMAGE_PLACEHOLDER)
            self.supervised += count
            self.supervised_answers += count * answer

    def encoded(self, mark_id: int = IGNORED) -> Encoded:
        """The arrays of all runs; ``mark_id`` is the label of an image mark."""
        ids, kinds = np.array(self._ids, np.int32), np.array(self._kinds, np.int32).repeat(self._sizes)
        labels = np.where(kinds & 2, ids, np.int32(IGNORED))
        labels[labels == IMAGE_PLACEHOLDER] = mark_id
        return Encoded(ids, labels, kinds // 4, (kinds & 1).astype(bool))


def _add_turn(chat: TokenRuns, message: Message, turn: int, tokenizer: ChatTokenizer) -> None:
    special = tokenizer.ids
    role = tokenizer.encode(message.role)
    # As released, the line ends are encoded together with the content: BPE may merge them.
    content = _content_ids("\n\n" + message.content, message.mark, tokenizer)
    if message.role == "assistant":
        ids = [special.start_header, *role, special.end_header, *content, special.eot]
        header = len(tokenizer.answer_header)
        chat.add(ids[:header], turn, labelled=True)
        chat.add(ids[header:], turn, labelled=True, answer=True)
        return
    chat.add([special.start_header], turn, labelled=True)
    chat.add(role, turn, labelled=False)
    chat.add([special.end_header], turn, labelled=True)
    chat.add(content, turn, labelled=False)
    chat.add([special.eot], turn, labelled=True)


def _content_ids(content: str, mark: str, tokenizer: ChatTokenizer) -> list[int]:
    """Encode the text between marks separately, as released: there the mark is registered as a token."""
    first, *rest = content.split(mark)
    ids = tokenizer.encode(first)
    for text in rest:
        ids += [IMAGE_PLACEHOLDER, *tokenizer.encode(text)]
    return ids


def _turn_numbers(messages: Sequence[Message]) -> Iterator[int]:
    """Number the exchanges: the system message and the first exchange are 0, and each user message after an
    assistant message starts the next."""
    turn, previous = 0, None
    for message in messages:
        turn += message.role == "user" and previous == "assistant"
        previous = message.role
        yield turn
