"""The trie of a vocabulary."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.languages.vocabulary import Vocabulary, vocabulary_of


def prefix_of(vocabulary: Vocabulary, node: int) -> bytes:
    """The bytes on the path to a node."""
    trie, data = vocabulary.trie, b""
    while node:
        data = bytes([trie.bytes_N[node]]) + data
        node = int(trie.parents_N[node])
    return data


@given(st.lists(st.binary(max_size=4), max_size=12))
def test_the_trie_has_every_prefix_once(tokens: list[bytes]):
    vocabulary = Vocabulary(tokens)
    trie = vocabulary.trie
    assert [prefix_of(vocabulary, int(node)) for node in trie.node_of_V] == tokens
    prefixes = [prefix_of(vocabulary, node) for node in range(len(trie.parents_N))]
    assert sorted(prefixes) == sorted(
        {token[:end] for token in tokens for end in range(len(token) + 1)} | {b""}
    )
    for level, (first, end) in enumerate(pairwise(trie.levels_D)):
        assert all(len(prefix) == level for prefix in prefixes[first:end])


def test_the_vocabulary_of_a_tokenizer_has_its_bytes_but_no_special_tokens(root: Path):
    tokenizer = ChatTokenizer.load(root / "tests" / "golden" / "tokenizer")
    vocabulary = vocabulary_of(tokenizer)
    assert vocabulary_of(tokenizer) is vocabulary
    assert len(vocabulary) == tokenizer.vocab_size
    assert vocabulary.token_bytes[tokenizer.ids.eos] == b""
    ids = vocabulary.encode("two cafés")
    assert ids is not None
    assert tokenizer.decode(ids) == "two cafés"


def test_a_text_that_the_tokenizer_changes_has_no_ids():
    lower = Vocabulary([b"a", b"b"], lambda text: [0 if each in "aA" else 1 for each in text])
    assert lower.encode("ab") == (0, 1)
    assert lower.encode("Ab") is None
    assert Vocabulary([b"a"]).encode("a") is None
