"""Languages of numbers: bounds, integers, multiples and excluded numbers.

A validator divides floats to check a multiple, so 0.07 is no multiple of 0.01 for it. Numbers and divisors
that floats hold exactly (integers, halves, quarters, ...) are safe: an automaton of remainders accepts all of
them. Of other multiples, those nearest to zero are listed and checked one by one.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, floor, gcd, inf, lcm

from lladav.structured.budget import Budget, BudgetExceeded
from lladav.structured.errors import SchemaError
from lladav.structured.forms import NumberForm
from lladav.structured.languages.byte_dfa import ByteDfa, texts_dfa, union_dfa
from lladav.structured.languages.byte_encoding import byte_dfa
from lladav.structured.languages.conditions import NoneOf, StringCondition, dfa_of, search_budget
from lladav.structured.languages.decimals import as_written, decimal_places, numeral
from lladav.structured.languages.numerals import MAX_DIGITS, Numeral
from lladav.structured.languages.remainders import Remainders

MAX_LISTED = 10_000
"""Multiples that are listed."""
LISTED_BESIDE = (MAX_LISTED, 1_000)
"""The same beside an automaton of remainders: as many as together are not too many states."""
FACTOR_STEPS = 4
"""Steps to check a multiple and to list it."""
MAX_EXCLUDED = 100
"""Excluded numbers, unless only integers are permitted."""


def number_dfa(form: NumberForm, budget: Budget) -> ByteDfa:
    """The numerals of a form. Raises ``SchemaError`` if there is none."""
    multiples = [as_written(each) for each in form.multiples] + [Fraction(1)] * form.integer
    if not multiples:
        return _dfa_of_numerals(form, None, budget)
    step = _common_multiple(multiples)
    safe = _safe_step(step, multiples)
    all_safe = _multiples(form, safe, budget)
    if all_safe is None:
        return texts_dfa(_listed_multiples(form, step, multiples, MAX_LISTED, budget), budget)
    if safe == step:
        return all_safe
    for most in LISTED_BESIDE:
        listed = texts_dfa(_listed_multiples(form, step, multiples, most, budget), budget)
        if (both := _union_if_small(all_safe, listed, budget)) is not None:
            return both
    return all_safe


def _union_if_small(first: ByteDfa, second: ByteDfa, budget: Budget) -> ByteDfa | None:
    """The union of two automata, or None if it has too many states; raises ``BudgetExceeded``."""
    try:
        return union_dfa([first, second], budget)
    except BudgetExceeded:
        raise
    except SchemaError:
        return None


def _dfa_of_numerals(form: NumberForm, remainders: Remainders | None, budget: Budget) -> ByteDfa:
    """All numerals of a form, or those with a remainder of 0."""
    if not form.integer and len(form.excluded) > MAX_EXCLUDED:
        raise SchemaError("", f"excludes more than {MAX_EXCLUDED} numbers, which is too complex")
    conditions: list[StringCondition] = [Numeral(form, remainders)]
    if form.integer:
        # An integer has one numeral, so the excluded ones are texts.
        excluded = NoneOf(str(each) for each in form.excluded if each.denominator == 1)
        conditions = [Numeral(replace(form, excluded=frozenset()), remainders), excluded]
    return byte_dfa(dfa_of(conditions, search_budget(budget), budget), budget, escaped=False)


def _common_multiple(numbers: list[Fraction]) -> Fraction:
    """The least positive number that is a multiple of all, and whose multiples are decimals."""
    denominator = gcd(*(each.denominator for each in numbers))
    # A decimal is a multiple of p/q only if it is one of p/r, where r is the part of q with factors 2 and 5.
    decimal = gcd(denominator, 10 ** denominator.bit_length())
    return Fraction(lcm(*(each.numerator for each in numbers)), decimal)


def _safe_step(step: Fraction, divisors: list[Fraction]) -> Fraction | None:
    """The step whose multiples floats hold exactly, and every divisor divides them as a float without rest.

    A divisor that no float holds exactly must be off by a factor of at most ``1 + 2**-54``: then the quotient
    of an exact number rounds to the integer.
    """
    inexact = [each for each in divisors if each.denominator > 1]
    if any(abs(Fraction(float(each)) / each - 1) > Fraction(1, 2**54) for each in inexact):
        return None
    twos = step.denominator & -step.denominator  # the largest power of 2 that divides the denominator
    return _common_multiple([step, Fraction(1, twos)])


def _multiples(form: NumberForm, step: Fraction | None, budget: Budget) -> ByteDfa | None:
    """All numerals of multiples of a step, or None if there is none or the remainders are too many."""
    if step is None or not (remainders := Remainders(step)).are_few:
        return None
    try:
        return _dfa_of_numerals(form, remainders, budget)
    except SchemaError as error:
        if error.code == "impossible_schema":
            return None
        raise


def _listed_multiples(
    form: NumberForm, step: Fraction, divisors: list[Fraction], most: int, budget: Budget
) -> list[bytes]:
    """Numerals of the multiples of a step nearest to zero that every divisor divides as a float without rest.

    At most ``most`` multiples are considered.

    A number is written in its shortest form and with as many digits after the point as the step has. Raises
    ``SchemaError`` if there is none.
    """
    places = decimal_places(step)
    digits_of_step, shift = int(step * 10**places), 10**places
    excluded = {as_written(each) * shift for each in form.excluded}
    texts = dict[str, None]()
    factors = _factors(form, step, most)
    budget.spend(FACTOR_STEPS * len(factors))
    for factor in factors:
        digits = factor * digits_of_step
        if digits not in excluded and _divide(digits, shift, divisors):
            text = numeral(digits, places)
            texts[text] = texts[text.rstrip("0").rstrip(".") if places else text] = None
    if not texts:
        raise SchemaError("", f"permits no number of up to {MAX_DIGITS} digits", "impossible_schema")
    return [text.encode() for text in texts]


def _divide(digits: int, shift: int, divisors: list[Fraction]) -> bool:
    """Whether every divisor divides the float ``digits / shift`` without rest; integers always do."""
    if abs(digits) >= shift * 10**MAX_DIGITS:
        return False
    number = digits / shift
    return all(each.denominator == 1 or (number / float(each)).is_integer() for each in divisors)


def _factors(form: NumberForm, step: Fraction, most: int) -> range:
    """Factors of the multiples within the bounds, at most ``most`` and those nearest to zero."""
    low, high = -inf, inf
    if form.low is not None:
        low = _least_factor(as_written(form.low) / step, form.low_excluded)
    if form.high is not None:
        high = -_least_factor(-as_written(form.high) / step, form.high_excluded)
    center = int(min(max(0, low), high))
    last = min(high, center + most // 2)
    first = max(low, last - most + 1)
    return range(int(first), int(min(high, first + most - 1)) + 1)


def _least_factor(quotient: Fraction, excluded: bool) -> int:
    """The least integer that is at least the quotient, or more than it."""
    return floor(quotient) + 1 if excluded else ceil(quotient)
