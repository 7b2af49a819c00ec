"""Token ids of ASCII text, word by word.

A byte-level tokenizer splits a text into words by a regular expression and encodes each word on its own. Most
words have occurred before, and looking up their ids takes a fraction of the time of the tokenizers library.
The ids are the same. A text that is not ASCII is left to the library, because engines of regular expressions
disagree about Unicode, and so is every text if the tokenizer does more than that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

MAX_WORDS, MAX_WORD_CHARACTERS = 1 << 15, 32
"""The ids of this many words of at most this many characters are kept: some megabytes."""
MAX_UNKNOWN_SHARE = 0.25
"""Once no more words are kept, a text with a larger share of unknown words is left to the library."""

GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ``ByteLevel`` splits by if no other step does."""
ASCII_CLASSES = {r"\p{L}": "a-zA-Z", r"\p{N}": "0-9"}

_GROUPS = re.compile(r"\(\?i?:|\(\?!\\S\)")
"""The groups that an expression of words may have. ``(?!\\S)`` also holds at the end of a text, where a word
ends, so it does not make a word depend on the next one."""
_UNSUPPORTED = re.compile(r"\(|[?*+}]\+|\}\?|(?<!\[)\^|\$|&&|\[\[|\\(?![sSdwrnt/.'-])")
"""What could make a word depend on its neighbors, and what Python may read differently."""
_CLASS_OR_PROPERTY = re.compile(r"\[[^\]]*\]|\\p\{[LN]\}")


class WordIds:
    """Encodes texts by the ids of their words, which it remembers."""

    def __init__(self, tokenizer: Tokenizer, words: str, added: Sequence[str]) -> None:
        """``words`` is the regular expression of words; ``added`` are tokens that may be a part of a text."""
        self._split = re.compile(words, re.ASCII).findall
        self._added = re.compile("|".join(map(re.escape, added))).search if added else None
        self._ids = _Ids(tokenizer)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordIds | None:
        """None if the ids of a text may differ from those of its words."""
        words = _expression(tokenizer)
        changes = (tokenizer.normalizer, tokenizer.truncation, tokenizer.padding)
        if words is None or any(changes) or getattr(tokenizer.model, "dropout", None):
            return None
        added = tokenizer.get_added_tokens_decoder().values()
        return cls(tokenizer, words, [token.content for token in added if not token.special])

    def encode(self, text: str) -> list[int] | None:
        """The ids of a text; None if the library has to encode it."""
        if not text.isascii() or (self._added and self._added(text)):
            return None
        words = self._split(text)
        if sum(map(len, words)) < len(text) or self._ids.knows_too_few(words):
            return None
        return [*chain.from_iterable(map(self._ids.__getitem__, words))]


class _Ids(dict[str, list[int]]):
    """The ids of words; those of an unknown word are added."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> list[int]:
        ids = self._tokenizer.encode(word, add_special_tokens=False).ids
        if len(self) < MAX_WORDS and len(word) <= MAX_WORD_CHARACTERS:
            self[word] = ids
        return ids

    def knows_too_few(self, words: Sequence[str]) -> bool:
        """Whether looking up each word would take longer than encoding the whole text."""
        if len(self) < MAX_WORDS:
            return False
        return sum(map(self.__contains__, words)) < (1 - MAX_UNKNOWN_SHARE) * len(words)


def _expression(tokenizer: Tokenizer) -> str | None:
    """The regular expression of ASCII words of a byte-level tokenizer; None if it is not supported."""
    match _steps(tokenizer):
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _in_ascii(GPT2_WORDS)
        case [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if not _UNSUPPORTED.search(_GROUPS.sub("", _in_ascii(words))):
            return _in_ascii(words)
    return None


def _steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The settings of the pre-tokenizers."""
    if tokenizer.pre_tokenizer is None:
        return []
    settings = json.loads(tokenizer.pre_tokenizer.__getstate__())
    return settings.get("pretokenizers", [settings])


def _in_ascii(words: str) -> str:
    """The expression for Python, with the letters and digits of ASCII only."""

    def replaced(found: re.Match[str]) -> str:
        part = found.group()
        for name, characters in ASCII_CLASSES.items():
            part = part.replace(name, characters)
        return part if part.startswith("[") else f"[{part}]"

    return _CLASS_OR_PROPERTY.sub(replaced, words)
