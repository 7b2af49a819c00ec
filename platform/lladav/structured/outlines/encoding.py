"""Tokens of fixed text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from lladav.inputs.chat import ChatTokenizer

CACHED_TEXTS = 4096


class TextEncoder:
    """Encodes fixed text. Contiguous text is encoded together, as the model knows it."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self._encode = lru_cache(CACHED_TEXTS)(lambda text: tuple(tokenizer.encode(text)))

    def count(self, text: str) -> int:
        """Tokens of a text on its own."""
        return len(self._encode(text))

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, which are whole characters."""
        return b"".join(map(self.tokenizer.token_bytes, ids)).decode()

    def encode(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Token ids of joined texts, never more than the texts have on their own.

        Byte-pair encoding may give joined text more tokens than its parts; then the parts are encoded.
        """
        together = self._encode("".join(texts))
        if len(together) <= sum(map(self.count, texts)):
            return together
        return tuple(token for text in texts for token in self._encode(text))
