"""Numbers: every accepted numeral is valid for two validators, and members of a form are accepted."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import jsonschema
import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lladav.structured.errors import SchemaError
from lladav.structured.forms import NumberForm
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.building import Automata
from tests.lladav.structured.languages.walks import BYTES, ODD, Walker

DECIMALS = st.decimals(-1000, 1000, places=2).map(lambda each: each.normalize()) | st.integers(
    -(10**6), 10**6
)


def schema_of(form: NumberForm) -> dict[str, object]:
    """The JSON schema that a form stands for."""
    schema: dict[str, object] = {"type": "integer" if form.integer else "number"}
    if form.low is not None:
        schema["exclusiveMinimum" if form.low_excluded else "minimum"] = number(form.low)
    if form.high is not None:
        schema["exclusiveMaximum" if form.high_excluded else "maximum"] = number(form.high)
    schema["allOf"] = [{"multipleOf": number(each)} for each in form.multiples] or [{}]
    schema["not"] = {"enum": [number(each) for each in form.excluded]}
    return schema


def number(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


@st.composite
def forms(draw: st.DrawFn) -> NumberForm:
    low, high = (draw(st.none() | DECIMALS.map(Fraction)) for _ in range(2))
    if low is not None and high is not None and low > high:
        low, high = high, low
    step = st.sampled_from("1 2 3 5 7 10 12 1000 999 0.5 0.25 2.5 0.1 0.01 0.001 0.3".split()).map(Fraction)
    return NumberForm(
        low=low,
        high=high,
        low_excluded=draw(st.booleans()),
        high_excluded=draw(st.booleans()),
        integer=draw(st.booleans()),
        multiples=tuple(draw(st.lists(step, max_size=2))),
        excluded=frozenset(draw(st.lists(DECIMALS.map(Fraction), max_size=2))),
    )


def automaton_or_none(form: NumberForm) -> TokenAutomaton | None:
    """The automaton of a form, or None if it permits no number."""
    try:
        return Automata(ODD).number(form)
    except SchemaError as error:
        if error.code != "impossible_schema":
            raise
        return None


@given(forms())
@example(NumberForm(low=Fraction("0.01"), high=Fraction("0.01"), multiples=(Fraction("0.001"),)))
def test_accepted_numerals_are_valid(form: NumberForm):
    automaton = automaton_or_none(form)
    if automaton is None:
        return
    schema = schema_of(form)
    slow, fast = jsonschema.Draft202012Validator(schema), jsonschema_rs.validator_for(schema)
    for text in Walker(automaton, ODD).samples(30, length=12):
        value = json.loads(text)
        assert slow.is_valid(value), (text, schema)
        assert fast.is_valid(value), (text, schema)
        assert "e" not in text


@given(forms(), st.lists(DECIMALS, min_size=1, max_size=20))
def test_members_are_accepted(form: NumberForm, values: list[object]):
    """A numeral is accepted if and only if its number is valid, unless a multiple is no exact float."""
    if any(each.denominator not in (1, 2, 4) for each in form.multiples):
        return
    automaton = automaton_or_none(form)
    walker = None if automaton is None else Walker(automaton, ODD)
    check = jsonschema.Draft202012Validator(schema_of(form))
    for value in values:
        text = f"{value:f}" if not isinstance(value, int) else str(value)
        parsed = json.loads(text)
        if isinstance(parsed, float) and parsed.is_integer():
            continue
        assert (walker is not None and walker.has(text)) == check.is_valid(parsed), (text, form)


@pytest.mark.parametrize(
    "text", ["-0", "01", "1.", ".5", "-", "", "1e5", "+1", "--1", "1.2.3", " 1", "-0.0", "00"]
)
def test_other_numerals_are_not_accepted(text: str):
    assert not Walker(Automata(BYTES).number(NumberForm()), BYTES).has(text)


@pytest.mark.parametrize(
    "text", ["0", "-1", "0.5", "-0.5", "0.0", "10.250", "123456789012345", "0.000000000000001"]
)
def test_canonical_numerals_are_accepted(text: str):
    assert Walker(Automata(BYTES).number(NumberForm()), BYTES).has(text)


def test_bounds_that_were_read_as_floats_are_the_decimals_that_were_written():
    walker = Walker(Automata(BYTES).number(NumberForm(low=Fraction(0.1), high=Fraction(0.3))), BYTES)
    assert [text for text in ("0.09", "0.1", "0.2", "0.3", "0.31") if walker.has(text)] == [
        "0.1",
        "0.2",
        "0.3",
    ]


def test_prices_are_the_multiples_that_validators_accept():
    walker = Walker(Automata(BYTES).number(NumberForm(low=Fraction(0), multiples=(Fraction("0.01"),))), BYTES)
    check = jsonschema.Draft202012Validator({"multipleOf": 0.01})
    assert not check.is_valid(0.07), "the quotient of the floats is no integer"
    for text in ("0", "0.07", "1.25", "3.5", "3.50", "19.9", "99.95", "1234.5", "98765", "1.255", "0.001"):
        assert walker.has(text) == check.is_valid(json.loads(text)), text


@pytest.mark.parametrize("step", ["0.3", "0.7", "0.9", "1.1", "0.06", "0.003"])
def test_steps_whose_multiples_are_too_many_to_list_are_accepted(step: str):
    walker = Walker(Automata(ODD).number(NumberForm(multiples=(Fraction(step),))), ODD)
    check = jsonschema.Draft202012Validator({"multipleOf": float(step)})
    for value in (0, *(k * Decimal(step) for k in (1, -1, 2, 3, 7, 400)), 1.4, "0.25", 99_000, 123_456):
        assert not walker.has(str(value)) or check.is_valid(json.loads(str(value))), value
    assert walker.has("0")
    assert walker.has(step)


def test_large_integers_are_accepted_where_the_bounds_ask_for_them():
    form = NumberForm(low=Fraction(10**18), high=Fraction(2**63 - 1), integer=True)
    walker = Walker(Automata(BYTES).number(form), BYTES)
    assert walker.has(str(2**63 - 1))
    assert not walker.has(str(2**63))
    assert not walker.has(str(10**18 - 1))


def test_a_range_without_a_number_is_impossible():
    for form in (
        NumberForm(low=Fraction("0.2"), high=Fraction("0.8"), integer=True),
        NumberForm(low=Fraction(2), high=Fraction(1)),
    ):
        with pytest.raises(SchemaError) as raised:
            Automata(BYTES).number(form)
        assert raised.value.code == "impossible_schema"


def test_many_excluded_numbers_are_bounded():
    numbers = frozenset(map(Fraction, range(2_000)))
    integers = Walker(Automata(BYTES).number(NumberForm(integer=True, excluded=numbers)), BYTES)
    assert [text for text in ("0", "1999", "2000", "-1") if integers.has(text)] == ["2000", "-1"]
    with pytest.raises(SchemaError, match="too complex"):
        Automata(BYTES).number(NumberForm(excluded=numbers))


@pytest.mark.parametrize("size", [10**400, Fraction(1, 10**290), Fraction(10**320, 3)])
def test_numbers_of_any_size_are_handled(size: int | Fraction):
    number = Fraction(size)
    for form in (NumberForm(low=number), NumberForm(high=number), NumberForm(multiples=(number,))):
        try:
            automaton = Automata(BYTES).number(form)
        except SchemaError:
            continue
        for text in Walker(automaton, BYTES).samples(20, length=20):
            value = Fraction(text)
            assert form.low is None or value >= form.low
            assert form.high is None or value <= form.high
            assert all(value % each == 0 for each in form.multiples)
