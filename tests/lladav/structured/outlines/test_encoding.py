"""Fixed text is encoded together, and never takes more tokens than its parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lladav.inputs.chat import ChatTokenizer
from lladav.structured.outlines.encoding import TextEncoder
from tests.lladav.structured.outlines.hand_built import ENCODER, TOKENIZER


class SplitsTogether(ChatTokenizer):
    """A tokenizer that gives joined text more tokens than its parts."""

    def __init__(self) -> None:
        """Nothing is loaded."""

    def encode(self, text: str) -> list[int]:
        return [1] if len(text) <= 2 else [2] * len(text)


@given(st.lists(st.sampled_from(['{"', "name", '": ', '"', ", ", "né", "}"]), max_size=8))
def test_joined_text_is_the_text_of_its_tokens(texts: list[str]):
    ids = ENCODER.encode(texts)
    assert TOKENIZER.decode(ids) == "".join(texts)
    assert len(ids) <= sum(map(ENCODER.count, texts))


def test_parts_are_encoded_where_joined_text_takes_more_tokens():
    assert TextEncoder(SplitsTogether()).encode(["ab", "c"]) == (1, 1)
