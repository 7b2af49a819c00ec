"""The tokens of a vocabulary as bytes, and their trie.

Nodes of the trie are numbered level by level, so one numpy operation handles all nodes of a level.
Shapes: V tokens, N nodes, D levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np


class ByteTokenizer(Protocol):
    """The part of a tokenizer that languages need."""

    @property
    def vocab_size(self) -> int: ...

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of a token; none for a special token."""
        ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, eq=False)
class Trie:
    """All prefixes of the tokens; node 0 is the empty prefix."""

    parents_N: np.ndarray
    bytes_N: np.ndarray
    """The last byte of each prefix."""
    levels_D: np.ndarray
    """The first node of each level, and N at the end. Level 0 is node 0."""
    node_of_V: np.ndarray
    """The node of each token; 0 for a token without bytes."""


class Vocabulary:
    """The bytes of each token by id. Special tokens have none, so no language contains them."""

    def __init__(
        self, token_bytes: Sequence[bytes], encode: Callable[[str], Sequence[int]] | None = None
    ) -> None:
        """``encode`` gives the ids of a text, as a tokenizer encodes it."""
        self.token_bytes = tuple(token_bytes)
        self._encode = encode

    def __len__(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def trie(self) -> Trie:
        """The trie of all tokens that have bytes."""
        return _build_trie(self.token_bytes)

    def encode(self, text: str) -> tuple[int, ...] | None:
        """The ids that the tokenizer gives a text; None if their bytes are not the text."""
        ids = tuple(self._encode(text)) if self._encode else ()
        return ids if b"".join(map(self.token_bytes.__getitem__, ids)) == text.encode() else None


@lru_cache(maxsize=4)
def vocabulary_of(tokenizer: ByteTokenizer) -> Vocabulary:
    """The vocabulary of a tokenizer."""
    tokens = map(tokenizer.token_bytes, range(tokenizer.vocab_size))
    return Vocabulary(tuple(tokens), tokenizer.encode)


def _build_trie(token_bytes: Sequence[bytes]) -> Trie:
    ids = sorted((each for each, text in enumerate(token_bytes) if text), key=token_bytes.__getitem__)
    lengths = np.array([len(token_bytes[each]) for each in ids], dtype=np.int64)
    offsets = np.cumsum(lengths) - lengths
    joined = np.frombuffer(b"".join(token_bytes[each] for each in ids), dtype=np.uint8)
    node_of_text = np.zeros(len(ids), dtype=np.int32)
    parents, last_bytes, levels = [node_of_text[:0]], [joined[:0]], [0, 1]
    for depth in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > depth)
        # Texts are sorted, so those of a node are neighbours.
        prefixes = np.stack((node_of_text[longer], joined[offsets[longer] + depth]))
        begins = np.append(True, (prefixes[:, 1:] != prefixes[:, :-1]).any(axis=0))
        parents.append(prefixes[0, begins])
        last_bytes.append(prefixes[1, begins])
        node_of_text[longer] = levels[-1] - 1 + np.cumsum(begins)
        levels.append(levels[-1] + len(parents[-1]))
    node_of_V = np.zeros(len(token_bytes), dtype=np.int32)
    node_of_V[ids] = node_of_text
    root = np.zeros(1, dtype=np.int32)
    return Trie(
        np.concatenate((root, *parents)), np.concatenate((root, *last_bytes)), np.array(levels), node_of_V
    )
