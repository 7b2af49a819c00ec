"""Deterministic automata over bytes. ``token_classes`` builds automata over tokens from them.

Bytes that do the same in every state form a class. Shapes: S states, B classes of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lladav.structured.budget import READ_PER_STEP, Budget
from lladav.structured.errors import SchemaError

DEAD = -1
"""Target of a byte that continues no text of the language."""
MAX_JOINT_STATES = 5_000
"""States of a union in which more than one of its parts is alive."""


@dataclass(frozen=True, eq=False)
class ByteDfa:
    """A deterministic automaton over bytes."""

    class_of_byte: np.ndarray
    """Class of each of the 256 bytes."""
    targets_SB: np.ndarray
    """State after a byte of each class, or ``DEAD`` (int32)."""
    accepting_S: np.ndarray
    between_S: np.ndarray
    """Whether a state lies between characters, not within the bytes or the escape of one."""
    start: int


def quoted_dfa(content: ByteDfa) -> ByteDfa:
    """The content between quotation marks; in it, each quotation mark is escaped."""
    is_quote = np.arange(256) == ord('"')
    class_of_byte, bytes_B = _common_classes([content.class_of_byte, is_quote])
    before = len(content.accepting_S)
    after = before + 1
    targets_SB = np.full((before + 2, len(bytes_B)), DEAD, dtype=np.int32)
    targets_SB[:before] = _targets_of(content, bytes_B)
    quote = class_of_byte[ord('"')]
    targets_SB[before, quote] = content.start
    targets_SB[np.flatnonzero(content.accepting_S), quote] = after
    accepting_S = np.arange(before + 2) == after
    return ByteDfa(class_of_byte, targets_SB, accepting_S, np.append(content.between_S, [True, True]), before)


def texts_dfa(texts: Sequence[bytes], budget: Budget) -> ByteDfa:
    """A list of texts, as their trie."""
    budget.spend(sum(map(len, texts)))
    trie: list[dict[int, int]] = [{}]
    ends = set[int]()
    for text in texts:
        state = 0
        for byte in text:
            if byte not in trie[state]:
                trie[state][byte] = len(trie)
                trie.append({})
            state = trie[state][byte]
        ends.add(state)
    used = np.array(sorted(set().union(*texts)), dtype=np.int64)
    class_of_byte = np.zeros(256, dtype=np.int32)  # class 0: bytes that occur nowhere
    class_of_byte[used] = np.arange(1, len(used) + 1)
    budget.spend(len(trie) * len(used) // READ_PER_STEP)
    targets_SB = np.full((len(trie), len(used) + 1), DEAD, dtype=np.int32)
    for state, edges in enumerate(trie):
        targets_SB[state, class_of_byte[list(edges)]] = list(edges.values())
    accepting_S = np.isin(np.arange(len(trie)), list(ends))
    return ByteDfa(class_of_byte, targets_SB, accepting_S, np.ones_like(accepting_S), 0)


def union_dfa(parts: Sequence[ByteDfa], budget: Budget) -> ByteDfa:
    """The texts of any of the parts."""
    return parts[0] if len(parts) == 1 else _Union(parts, budget).dfa()


class _Union:
    """States are tuples of one state of each part.

    Where only one part is alive, its own state serves, so a union is hardly larger than its parts if their
    texts differ early.
    """

    def __init__(self, parts: Sequence[ByteDfa], budget: Budget) -> None:
        self.parts, self.budget = parts, budget
        self.class_of_byte, bytes_B = _common_classes([part.class_of_byte for part in parts])
        self.tables = [_targets_of(part, bytes_B) for part in parts]
        self.offsets = np.cumsum([0, *(len(part.accepting_S) for part in parts)]).tolist()
        self.joint: dict[tuple[int, ...], int] = {}
        """Tuples with several states alive, and their numbers."""

    def dfa(self) -> ByteDfa:
        start = self._number(tuple(part.start for part in self.parts))
        rows, accepting = [], []
        queue = list(self.joint)
        for states in queue:
            known = len(self.joint)
            rows.append(self._row(states))
            accepting.append(self._accepts(states))
            queue += list(self.joint)[known:]
        own = [
            np.where(t == DEAD, DEAD, t + first) for t, first in zip(self.tables, self.offsets, strict=False)
        ]
        joint_SB = np.array(rows, dtype=np.int32).reshape(len(rows), -1 if rows else own[0].shape[1])
        accepting_S = [part.accepting_S for part in self.parts]
        between_S = [part.between_S for part in self.parts]
        return ByteDfa(
            self.class_of_byte,
            np.concatenate([*own, joint_SB]).astype(np.int32),
            np.concatenate([*accepting_S, np.array(accepting, dtype=bool)]),
            np.concatenate([*between_S, np.ones(len(rows), dtype=bool)]),
            start,
        )

    def _row(self, states: tuple[int, ...]) -> list[int]:
        """Targets of a tuple of states."""
        self.budget.spend(self.tables[0].shape[1] * len(states))
        dead = [DEAD] * self.tables[0].shape[1]
        rows = [t[s].tolist() if s != DEAD else dead for t, s in zip(self.tables, states, strict=True)]
        return [self._number(each) for each in zip(*rows, strict=True)]

    def _accepts(self, states: tuple[int, ...]) -> bool:
        return any(s != DEAD and p.accepting_S[s] for p, s in zip(self.parts, states, strict=True))

    def _number(self, states: tuple[int, ...]) -> int:
        alive = [part for part, state in enumerate(states) if state != DEAD]
        if len(alive) < 2:
            return self.offsets[alive[0]] + states[alive[0]] if alive else DEAD
        if len(self.joint) >= MAX_JOINT_STATES:
            raise SchemaError("", "combines values in too many ways; use fewer alternatives")
        return self.joint.setdefault(states, self.offsets[-1] + len(self.joint))


def _common_classes(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Classes of bytes that agree in every map, and one byte of each class."""
    _, bytes_B, class_of_byte = np.unique(np.array(maps), axis=1, return_index=True, return_inverse=True)
    return class_of_byte.reshape(-1), bytes_B


def _targets_of(dfa: ByteDfa, bytes_B: np.ndarray) -> np.ndarray:
    return dfa.targets_SB[:, dfa.class_of_byte[bytes_B]]
