"""Ids found word by word are those of the tokenizers library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lladav.inputs import word_ids
from lladav.inputs.word_ids import WordIds

ROOT = Path(__file__).resolve().parents[3]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
TRAINING = [
    "The quick brown fox's 1234 dogs don't jump: they'll sleep (well),\n\n  and THEY'RE asleep!\t\r\n x=y+1;",
    "def f(x):\n    return  x ** 22   # what's that?\n\n\n",
]

pieces = st.sampled_from(
    [
        *"'sStTdDrRlLvVeEmM 0123456789\n\r\t\v\f\x00\x1c\x1f\x7f.,:;()<>|#-_=/",
        "  ",
        "the",
        " fox",
        "'ll",
        "<tool>",
        "<|eot|>",
    ]
)
texts = st.lists(pieces, max_size=25).map("".join) | st.text(st.characters(max_codepoint=127), max_size=40)


def trained(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.add_special_tokens(["<|eot|>"])
    tokenizer.encode_special_tokens = True
    return tokenizer


def by(expression: str, behavior: str = "isolated") -> pre_tokenizers.PreTokenizer:
    """Words of an expression, as bytes."""
    split = pre_tokenizers.Split(Regex(expression), behavior)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, True, False)])


SUPPORTED: dict[str, Callable[[], Tokenizer]] = {
    "GPT-2": lambda: trained(pre_tokenizers.ByteLevel(False)),
    "Llama 3": lambda: trained(by(LLAMA3)),
    "Qwen 2": lambda: trained(by(QWEN2)),
    "gaps": lambda: trained(by(r" ?\p{L}+")),
    "tiny": lambda: Tokenizer.from_file(str(ROOT / "models/tiny/tokenizer.json")),
    "golden": lambda: Tokenizer.from_file(str(ROOT / "tests/golden/tokenizer/tokenizer.json")),
}


@pytest.fixture(scope="module", params=SUPPORTED)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer = SUPPORTED[request.param]()
    tokenizer.encode_special_tokens = True
    return tokenizer


@given(texts=st.lists(texts, max_size=4))
def test_the_ids_of_any_ascii_text_are_those_of_the_library(tokenizer: Tokenizer, texts: list[str]) -> None:
    words = WordIds.of(tokenizer)
    assert words
    for text in [*texts, *texts]:
        assert words.encode(text) in (None, tokenizer.encode(text, add_special_tokens=False).ids)


def test_other_texts_are_left_to_the_library() -> None:
    words = WordIds.of(SUPPORTED["gaps"]())
    assert words
    assert words.encode(" fox jumps") is not None
    assert words.encode(" fox, jumps") is None  # the comma is no word
    assert words.encode(" f\N{LATIN SMALL LETTER O WITH STROKE}x") is None


def test_a_text_with_an_added_token_is_left_to_the_library() -> None:
    tokenizer = SUPPORTED["GPT-2"]()
    tokenizer.add_tokens([AddedToken("<tool>")])
    words = WordIds.of(tokenizer)
    assert words
    assert words.encode("a<tool>b") is None
    assert words.encode("a<tol>b") == tokenizer.encode("a<tol>b").ids


def test_few_words_are_kept_and_then_texts_of_other_words_are_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(word_ids, "MAX_WORDS", 3)
    tokenizer = SUPPORTED["GPT-2"]()
    words = WordIds.of(tokenizer)
    assert words
    for text in ("one two three four", "one two three five"):
        assert words.encode(text) == tokenizer.encode(text).ids
    assert words.encode("one six seven") is None


@pytest.mark.parametrize(
    "expression",
    [
        r"\w+\b|\W",
        r"^\s+|\S",
        r"(a|b)+|.",
        r"\w++|.",
        r"\w(?=\s)|.",
        r"(?<=a)b|.",
        r"\p{Lu}+|.",
        r"[[:alpha:]]+|.",
    ],
)
def test_an_expression_whose_words_may_depend_on_others_is_not_supported(expression: str) -> None:
    assert WordIds.of(trained(by(expression))) is None


def test_a_tokenizer_that_does_more_than_split_is_not_supported() -> None:
    split = pre_tokenizers.ByteLevel(False)
    changed = [trained(split) for _ in range(4)]
    changed[0].normalizer = normalizers.Lowercase()
    changed[1].enable_truncation(5)
    changed[2].enable_padding(length=9)
    changed[3].model.dropout = 0.5
    others = [pre_tokenizers.ByteLevel(True), by("x", "removed"), pre_tokenizers.Whitespace()]
    assert not any(map(WordIds.of, [*changed, *map(trained, others)]))
    assert WordIds.of(Tokenizer(models.BPE())) is None
