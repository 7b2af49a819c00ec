"""Outlines: which tokens are fixed, where choices are, and how slots share the answer's length."""

from __future__ import annotations

from lladav.structured.forms import NumberForm, StringForm
from lladav.structured.outline import Fixed
from tests.lladav.structured.outlines.hand_built import (
    DIGIT,
    INTEGER,
    STRING,
    TOKENIZER,
    HandBuilt,
    array,
    constant,
    follow,
    outline_of,
    record,
    slots,
    texts,
)


def test_an_answer_without_choices_is_one_outline():
    outline = outline_of(record("name", "size", name=STRING, size=DIGIT))
    assert texts(outline) == ['{"name": "', "<6>", '", "size": ', "<1>", "}"]
    assert not outline.choices([TOKENIZER.encode("cat"), TOKENIZER.encode("1")])
    assert (
        outline.length == sum(len(TOKENIZER.encode(text)) for text in ('{"name": "', '", "size": ', "}")) + 7
    )


def test_fixed_text_is_encoded_as_a_whole():
    (piece,) = outline_of(record("a", "b", a=constant("one"), b=constant(None))).pieces
    assert isinstance(piece, Fixed)
    assert list(piece.ids) == TOKENIZER.encode('{"a": "one", "b": null}')


def test_text_that_all_alternatives_share_is_written_before_the_choice():
    kinds = [
        *record("kind", "x", kind=constant("cat"), x=DIGIT).forms,
        *record("kind", kind=constant("dog")).forms,
    ]
    outline = outline_of(HandBuilt(*kinds))
    assert texts(outline) == ['{"kind": "']
    assert follow(outline) == [['cat", "x": ', "<1>", "}"], ['dog"}']]


def test_alternatives_have_the_tokens_of_the_whole_text():
    outline = outline_of(record("a", a=STRING, b=DIGIT))
    ends = []
    for each in outline.choices([TOKENIZER.encode("x")]):
        ids = [token for piece in each.pieces if isinstance(piece, Fixed) for token in piece.ids]
        ends.append(ids[: -1 if slots(each) else None])
    before = [token for piece in outline.pieces[2:] if isinstance(piece, Fixed) for token in piece.ids]
    assert [before + end for end in ends] == [TOKENIZER.encode('", "b": '), TOKENIZER.encode('"}')]


def test_a_union_of_scalars_is_one_slot():
    outline = outline_of(
        array(HandBuilt(StringForm(), NumberForm(), *constant(None, True).forms), least=1, most=1)
    )
    assert texts(outline)[0] == "["
    assert len(slots(outline)) == 1
    assert not outline.choices([TOKENIZER.encode("null")])


def test_a_union_with_an_object_is_a_choice_of_two():
    forms = [*STRING.forms, *INTEGER.forms, *record("a", a=DIGIT).forms]
    outline = outline_of(HandBuilt(*forms))
    assert len(follow(outline)) == 2


def test_slots_share_the_positions_that_are_left():
    schema = record("a", "b", a=STRING, b=STRING)
    roomy, tight = slots(outline_of(schema, 100)), slots(outline_of(schema, 24))
    assert [slot.length for slot in roomy] == [6, 6]
    assert all(0 < slot.length < 6 for slot in tight)
    assert (outline_of(schema, 24).length or 0) <= 24
