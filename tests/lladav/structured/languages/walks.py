"""Vocabularies for tests of languages, and sequences of tokens that an automaton accepts."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.graphs import distances_to_end
from lladav.structured.languages.vocabulary import Vocabulary

BYTES = Vocabulary([bytes([byte]) for byte in range(256)])
"""Every byte is a token, so every text has exactly one sequence of tokens."""
PARTS = (
    b"", b"the", b" the", b'": "', b'"', b'",', b"\\n", b"\\", b'\\"', b"n", b"\n", b"caf\xc3", b"\xc3\xa9",
    b"\xa9x", b"\xe2\x82", b"\xf0\x9f\x98\x80", b"\xf0\x9f", b"2026", b"-0", b".5", b"00", b"1", b"  ",
    b"\x00", b"null",
)  # fmt: skip
ODD = Vocabulary([*PARTS, *(bytes([byte]) for byte in range(256)), *PARTS])
"""Tokens with parts of characters and of escapes, tokens of the same bytes, and tokens without bytes."""


class Walker:
    """Follows the edges of an automaton."""

    def __init__(self, automaton: TokenAutomaton, vocabulary: Vocabulary) -> None:
        self.automaton, self.vocabulary = automaton, vocabulary
        self.edges = defaultdict[int, dict[int, int]](dict)
        for source, name, target in zip(
            automaton.sources_E.tolist(),
            automaton.classes_E.tolist(),
            automaton.targets_E.tolist(),
            strict=True,
        ):
            assert name not in self.edges[source], "deterministic"
            self.edges[source][name] = target
        self.tokens = defaultdict[int, list[int]](list)
        for token, name in enumerate(automaton.class_of_V.tolist()):
            self.tokens[name].append(token)

    def accepts(self, ids: Sequence[int]) -> bool:
        """Whether the automaton accepts a sequence of tokens."""
        state: int | None = self.automaton.start
        for token in ids:
            state = self.edges[state].get(int(self.automaton.class_of_V[token]))
            if state is None:
                return False
        return bool(self.automaton.accepting_S[state])

    def has(self, text: str) -> bool:
        """Whether a text is in the language, spelled in tokens of one byte."""
        single = {data: token for token, data in enumerate(self.vocabulary.token_bytes) if len(data) == 1}
        return self.accepts([single[bytes([byte])] for byte in text.encode()])

    def samples(self, count: int, seed: int = 0, length: int = 40) -> Iterator[str]:
        """Texts of random sequences that the automaton accepts, of about ``length`` tokens at most."""
        choice = random.Random(seed)
        distances = distances_to_end(
            self.automaton.sources_E, self.automaton.targets_E, self.automaton.accepting_S
        )
        for _ in range(count):
            yield b"".join(
                self.vocabulary.token_bytes[each] for each in self._walk(choice, distances, length)
            ).decode()

    def _walk(self, choice: random.Random, distances: np.ndarray, length: int) -> list[int]:
        state, ids, target = self.automaton.start, list[int](), choice.randint(0, length)
        while not (self.automaton.accepting_S[state] and (len(ids) >= target or not self.edges[state])):
            following = list(self.edges[state].items())
            if len(ids) >= target:
                following = [min(following, key=lambda edge: distances[edge[1]])]
            name, state = choice.choice(following)
            ids.append(choice.choice(self.tokens[name]))
        return ids
