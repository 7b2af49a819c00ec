"""Deterministic automata over characters: the content of strings before it is encoded.

Shapes: S states, C cells of code points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lladav.structured.budget import SORTED_PER_STEP, Budget
from lladav.structured.errors import SchemaError
from lladav.structured.languages.byte_dfa import DEAD
from lladav.structured.languages.code_points import ANY, Partition, partition_of
from lladav.structured.languages.graphs import longest_path, shortest_path, useful_states
from lladav.structured.languages.rows import distinct_rows

MAX_COUNTED_STATES = 20_000
"""States of an automaton that counts characters."""
MAX_REFINED_ENTRIES = 2_000_000
"""Entries of tables that minimization reads in all rounds."""


@dataclass(frozen=True, eq=False)
class CharDfa:
    """A deterministic automaton over characters. Every state lies on a path from the start to the end."""

    partition: Partition
    targets_SC: np.ndarray
    """State after a character of each cell, or ``DEAD`` (int32)."""
    accepting_S: np.ndarray
    start: int

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Sources and targets of all edges."""
        sources, cells = np.nonzero(self.targets_SC != DEAD)
        return sources, self.targets_SC[sources, cells]

    @property
    def max_length(self) -> int | None:
        """Characters of the longest string, or None if there is none."""
        return longest_path(*self.edges, self.start, self.accepting_S)

    @property
    def min_length(self) -> int:
        """Characters of the shortest string."""
        return shortest_path(*self.edges, self.start, self.accepting_S)


def any_string(budget: Budget) -> CharDfa:
    """All strings."""
    return CharDfa(partition_of([ANY], budget), np.zeros((1, 1), dtype=np.int32), np.ones(1, dtype=bool), 0)


def trimmed(dfa: CharDfa, budget: Budget) -> CharDfa:
    """The automaton without states that no string of the language visits.

    Raises ``SchemaError`` if the language is empty.
    """
    budget.spend(dfa.targets_SC.size // SORTED_PER_STEP)
    useful_S = useful_states(*dfa.edges, dfa.start, dfa.accepting_S)
    if not useful_S[dfa.start]:
        raise SchemaError("", "permits no string", "impossible_schema")
    new_of_S = np.where(useful_S, np.cumsum(useful_S) - 1, DEAD)
    new_of_S = np.append(new_of_S, DEAD).astype(np.int32)  # the last one is that of DEAD
    return CharDfa(
        dfa.partition, new_of_S[dfa.targets_SC[useful_S]], dfa.accepting_S[useful_S], int(new_of_S[dfa.start])
    )


def with_length(dfa: CharDfa, min_length: int, max_length: int | None, budget: Budget) -> CharDfa:
    """The strings of ``min_length`` to ``max_length`` characters; the states count characters."""
    if max_length is None and dfa.min_length >= min_length:
        return dfa
    counts = 1 + (min_length if max_length is None else max_length)
    if counts * len(dfa.accepting_S) > MAX_COUNTED_STATES:
        raise SchemaError(
            "", f"counts up to {counts - 1:,} characters, which is too complex; use a shorter length"
        )
    budget.spend(counts * dfa.targets_SC.size // SORTED_PER_STEP)
    return trimmed(_counted(dfa, counts, min_length, saturates=max_length is None), budget)


def _counted(dfa: CharDfa, counts: int, min_length: int, saturates: bool) -> CharDfa:
    """States are pairs of a count, below ``counts``, and a state; the last count may mean more."""
    num_states = len(dfa.accepting_S)
    following = np.arange(1, counts + 1)
    following[-1] = counts - 1 if saturates else DEAD
    targets = following[:, None, None] * num_states + dfa.targets_SC
    targets[:, dfa.targets_SC == DEAD] = DEAD
    targets[following == DEAD] = DEAD
    accepting = (np.arange(counts) >= min_length)[:, None] & dfa.accepting_S
    table = targets.reshape(counts * num_states, -1).astype(np.int32)
    return CharDfa(dfa.partition, table, accepting.reshape(-1), dfa.start)


def minimized(dfa: CharDfa, budget: Budget) -> CharDfa:
    """The smallest automaton of the same language, by partition refinement (Moore).

    A chain of states takes a round each. The automaton is returned as it is if that costs too much.
    """
    # Cells that do the same in every state count once.
    columns = list({column.tobytes(): column for column in dfa.targets_SC.T.copy()}.values())
    group_S, count = dfa.accepting_S.astype(np.int64), 0
    entries = len(columns) * len(group_S)
    for _ in range(MAX_REFINED_ENTRIES // entries):
        budget.spend(entries // SORTED_PER_STEP)
        group_of_target = np.append(group_S, DEAD)
        firsts, group_S = distinct_rows([group_S, *(group_of_target[column] for column in columns)])
        if len(firsts) == count:
            table = np.append(group_S, DEAD)[dfa.targets_SC[firsts]].astype(np.int32)
            return CharDfa(dfa.partition, table, dfa.accepting_S[firsts], int(group_S[dfa.start]))
        count = len(firsts)
    return dfa
