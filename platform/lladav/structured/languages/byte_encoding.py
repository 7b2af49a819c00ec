"""Encodes an automaton over characters as one over bytes: UTF-8, and the escapes of JSON.

The encodings of all code points form a trie whose leaves are cells. Equal parts of it are one node, so it has
few. A state over bytes stands for a state over characters and a node; those with the same targets are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from lladav.structured.budget import READ_PER_STEP, Budget
from lladav.structured.languages.byte_dfa import DEAD, ByteDfa
from lladav.structured.languages.char_dfa import CharDfa
from lladav.structured.languages.code_points import NUM_CODE_POINTS, Partition
from lladav.structured.languages.rows import distinct_rows

ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
"""Characters that ``json.dumps(ensure_ascii=False)`` writes as a backslash and another character."""
CONTROLS = range(0x20)
"""Characters that JSON escapes; those without a short escape are written as ``\\u00XX``."""
ENCODING_STEPS = 10_000
"""Steps to build the trie of all encoded code points."""
CONTINUATIONS = slice(0x80, 0xC0)
"""Bytes of UTF-8 that continue a character."""


def byte_dfa(dfa: CharDfa, budget: Budget, escaped: bool) -> ByteDfa:
    """The strings in UTF-8. If escaped, as JSON has them between quotation marks."""
    budget.spend(ENCODING_STEPS)
    children_N256 = _encodings(dfa.partition, escaped)
    _, bytes_B, class_of_byte = np.unique(children_N256, axis=1, return_index=True, return_inverse=True)
    num_states, num_cells = dfa.targets_SC.shape
    budget.spend(num_states * (num_cells + len(children_N256) * len(bytes_B)) // READ_PER_STEP)
    # Columns: the target of each cell, the state of each node, and DEAD for bytes that continue nothing.
    columns = np.full((num_states, num_cells + len(children_N256) + 1), DEAD, dtype=np.int32)
    columns[:, :num_cells] = dfa.targets_SC
    tables, total = list[np.ndarray](), num_states
    for node, children_B in enumerate(children_N256[:-1, bytes_B]):
        rows, state_of_S = _living_rows(columns[:, children_B])
        columns[:, num_cells + node] = np.where(state_of_S == DEAD, DEAD, state_of_S + total)
        tables.append(rows)
        total += len(rows)
    root = columns[:, children_N256[-1, bytes_B]]
    between_S = np.arange(total) < num_states
    accepting_S = between_S.copy()
    accepting_S[:num_states] = dfa.accepting_S
    targets_SB = np.concatenate((root, *tables))
    return ByteDfa(class_of_byte.reshape(-1), targets_SB, accepting_S, between_S, dfa.start)


def _living_rows(table_SB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows that have a target, and which of them each row is; ``DEAD`` for one without."""
    alive = np.flatnonzero((table_SB != DEAD).any(axis=1))
    row_of_S = np.full(len(table_SB), DEAD)
    if not len(alive):
        return table_SB[:0], row_of_S
    firsts, row_of_S[alive] = distinct_rows(
        {each.tobytes(): each for each in table_SB[alive].T.copy()}.values()
    )
    return table_SB[alive[firsts]], row_of_S


@lru_cache(maxsize=64)
def _encodings(partition: Partition, escaped: bool) -> np.ndarray:
    """The trie of all encoded code points: for each node and byte, what follows (nodes, 256).

    That is a cell, the number of cells plus the number of a node, or -1. A node comes after those that follow
    it, so the root is the last one.
    """
    trie = _EncodingTrie(partition)
    cells = trie.cell_of_code_points
    root = np.full(256, DEAD, dtype=np.int32)
    root[:0x80] = cells[:0x80]
    if escaped:
        trie.escape(root)
    # Code points from 0x80, 0x800 and 0x10000 on have 2, 3 and 4 bytes; each byte after the first has 6 bits.
    root[0xC0:0xE0] = trie.nodes(trie.leaves(0x80, 0x800))
    root[0xE0:0xF0] = trie.nodes(trie.nodes(trie.leaves(0x800, 0x10000)))
    root[0xF0:0xF5] = trie.nodes(trie.nodes(trie.nodes(trie.leaves(0x10000, 5 << 18))))
    trie.add(root)
    return np.array(trie.children)


class _EncodingTrie:
    """Nodes of a trie of encodings, the same ones stored once."""

    def __init__(self, partition: Partition) -> None:
        self.cell_of_code_points = partition.cell_of_code_points()
        self.children = list[np.ndarray]()
        self._num_cells = partition.num_cells
        self._known: dict[bytes, int] = {}

    def add(self, children: np.ndarray) -> int:
        """The node with these children."""
        number = self._known.setdefault(children.tobytes(), len(self.children))
        if number == len(self.children):
            self.children.append(children)
        return self._num_cells + number

    def leaves(self, first: int, end: int) -> np.ndarray:
        """Cells of the code points from 0 to ``end``, of those before ``first`` and beyond Unicode -1."""
        cells = np.full(end, DEAD, dtype=np.int32)
        cells[first:NUM_CODE_POINTS] = self.cell_of_code_points[first:end]
        return cells

    def nodes(self, children: np.ndarray) -> np.ndarray:
        """Nodes of 64 children each, one for each continuation byte; -1 where all are -1."""
        blocks = children.reshape(-1, 64)
        same = blocks.min(axis=1) == blocks.max(axis=1)
        distinct = dict[bytes, int]()
        numbers = []
        for block, only in zip(blocks, np.where(same, blocks[:, 0], DEAD - 1), strict=True):
            if only == DEAD:
                numbers.append(DEAD)
                continue
            key = block.tobytes()
            if key not in distinct:
                row = np.full(256, DEAD, dtype=np.int32)
                row[CONTINUATIONS] = block
                distinct[key] = self.add(row)
            numbers.append(distinct[key])
        return np.array(numbers, dtype=np.int32)

    def escape(self, root: np.ndarray) -> None:
        """Replace the characters that JSON escapes by their escapes."""
        cells = self.cell_of_code_points
        root[: CONTROLS.stop] = DEAD
        after_backslash = {ord(letter): int(cells[ord(each)]) for each, letter in ESCAPES.items()}
        root[[ord('"'), ord("\\")]] = DEAD
        digits = "0123456789abcdef"
        high = dict[int, int]()
        for value in (0, 1):
            controls = [16 * value + low for low in range(16)]
            high[ord(digits[value])] = self._node(
                {ord(digits[c % 16]): int(cells[c]) for c in controls if chr(c) not in ESCAPES}
            )
        zero = ord("0")
        after_backslash[ord("u")] = self._node({zero: self._node({zero: self._node(high)})})
        root[ord("\\")] = self._node(after_backslash)

    def _node(self, children: Mapping[int, int]) -> int:
        row = np.full(256, DEAD, dtype=np.int32)
        row[list(children)] = list(children.values())
        return self.add(row)
