"""Layouts of scalars: one slot for each value, whatever scalars it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lladav.structured.forms import ConstantForm, NumberForm, Schema, StringForm
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.languages.building import TEXT_STEPS, Automata, ScalarForm, json_text
from lladav.structured.outlines.cost import Cost, total
from lladav.structured.outlines.encoding import TextEncoder
from lladav.structured.outlines.parts import Collection, Lookup, Part, SlotPart, Text

CHARACTERS_PER_TOKEN = 3
"""For strings with a length. English text has more; a short string gets one position per character."""
LONGEST_STRING = 8
"""Positions of a string with ``maxLength``, at most, in units of those of a string without it."""
INTEGER_DIGITS, FRACTION_DIGITS = 10, 4
"""Positions of an unbounded number: before the decimal point, and from the point on."""
MAX_INTEGER_DIGITS = 20
"""Positions before the decimal point, at most, whatever the bounds are."""
UNLIMITED = 2**31
"""Positions of a text that may take the whole canvas."""
ROOM = 2
"""Positions of a pattern or long string in units of the fewest: few values consist of the longest tokens."""


@dataclass(frozen=True, eq=False)
class TextLayout:
    """A value with one text."""

    text: Text

    def needs(self) -> Iterable[Schema]:
        return ()

    def cost(self, lookup: Lookup) -> Cost:  # noqa: ARG002 - the protocol's signature
        return self.text.cost

    def longest(self, lookup: Callable[[Schema], float]) -> float:  # noqa: ARG002 - the protocol's signature
        return self.text.cost.wanted

    def parts(self, inside: frozenset[Schema]) -> tuple[Part, ...]:  # noqa: ARG002 - the protocol's signature
        return (self.text,)


@dataclass(frozen=True, eq=False)
class SlotLayout:
    """A value that an automaton describes, between fixed quotation marks or without any."""

    automaton: TokenAutomaton
    length: Cost
    """Positions of the slot."""
    quotes: tuple[Text, ...] = ()
    """The quotation mark on both sides, if it is fixed."""

    @property
    def quotes_cost(self) -> Cost:
        """Of both quotation marks."""
        return total(quote.cost for quote in self.quotes) * 2

    def needs(self) -> Iterable[Schema]:
        return ()

    def cost(self, lookup: Lookup | None = None) -> Cost:  # noqa: ARG002 - the protocol's signature
        return self.length + self.quotes_cost

    def longest(self, lookup: Callable[[Schema], float]) -> float:  # noqa: ARG002 - the protocol's signature
        return self.cost().wanted

    def parts(self, inside: frozenset[Schema]) -> tuple[Part, ...]:  # noqa: ARG002 - the protocol's signature
        return self.recorded(None)

    def recorded(self, collection: Collection | None) -> tuple[Part, ...]:
        """The parts of a value that is recorded in a collection."""
        return (*self.quotes, self.slot(collection), *self.quotes)

    def slot(self, collection: Collection | None = None) -> SlotPart:
        """The slot without quotation marks."""
        return SlotPart(self.automaton, self.length, bool(self.quotes), collection)


class SlotBuilder:
    """Builds layouts of scalars for one tokenizer. Its methods raise ``SchemaError``."""

    def __init__(self, encoder: TextEncoder, value_tokens: int, automata: Automata) -> None:
        """``value_tokens`` are the positions of a string of any length."""
        self.encoder, self.value_tokens, self.automata = encoder, value_tokens, automata
        self._quote = (self.text('"'),)

    def text(self, text: str) -> Text:
        """A part of fixed text."""
        self.automata.budget.spend(TEXT_STEPS + len(text))
        count = self.encoder.count(text)
        return Text(text, Cost(count, count))

    def scalar(self, forms: Sequence[ScalarForm]) -> TextLayout | SlotLayout:
        """A scalar of one of several forms: fixed text if there is only one."""
        texts = _constant_texts(forms)
        return TextLayout(self.text(texts[0])) if len(texts) == 1 else self.slot(forms)

    def slot(self, forms: Sequence[ScalarForm], fixed_quotes: bool = True) -> SlotLayout:
        """The slot of a scalar of one of several forms.

        Quotation marks around it are fixed if every scalar is a string, unless ``fixed_quotes`` forbids that.
        """
        texts = _constant_texts(forms)
        if texts:
            quoted = fixed_quotes and all(text.startswith('"') for text in texts)
            return self.texts([text[1:-1] for text in texts], self._quote) if quoted else self.texts(texts)
        match forms:
            case [StringForm() as form]:
                automaton = self.automata.string(form, quoted=not fixed_quotes)
                quotes = self._quote if fixed_quotes else ()
            case [NumberForm() as form]:
                automaton, quotes = self.automata.number(form), ()
            case _:
                automaton, quotes = self.automata.scalars(forms), ()
        return SlotLayout(automaton, self._length(forms, automaton), quotes)

    def texts(self, texts: Sequence[str], quotes: tuple[Text, ...] = ()) -> SlotLayout:
        """One of some texts, as they are."""
        automaton = self.automata.texts(texts)
        return SlotLayout(automaton, fit(max(map(self.encoder.count, texts)), automaton), quotes)

    def regex(self, pattern: str) -> SlotLayout:
        """A text of a regular expression, as long as there is room."""
        automaton = self.automata.regex(pattern)
        return SlotLayout(automaton, fit(UNLIMITED, automaton))

    def _length(self, forms: Sequence[ScalarForm], automaton: TokenAutomaton) -> Cost:
        return fit(max(self._wanted(form, automaton) for form in forms), automaton)

    def _wanted(self, form: ScalarForm, automaton: TokenAutomaton) -> int:
        if isinstance(form, ConstantForm):
            return max(self.encoder.count(json_text(value)) for value in form.values)
        if isinstance(form, NumberForm):
            return _number_tokens(form)
        return self._string_tokens(form, automaton.min_tokens)

    def _string_tokens(self, form: StringForm, fewest: int) -> int:
        """Enough for ``max_length`` within reason, and for what ``min_length`` and patterns demand."""
        characters = form.min_length if form.max_length is None else form.max_length
        wanted = min(-(-characters // CHARACTERS_PER_TOKEN), LONGEST_STRING * self.value_tokens)
        wanted = max(self.value_tokens, wanted, ROOM * fewest)
        return wanted if form.max_length is None else min(wanted, form.max_length)


def fit(wanted: int, automaton: TokenAutomaton) -> Cost:
    """The length of a slot: as wanted, between the fewest and most tokens of its automaton."""
    most = wanted if automaton.max_tokens is None else min(wanted, automaton.max_tokens)
    return Cost(automaton.min_tokens, max(most, automaton.min_tokens))


def _number_tokens(form: NumberForm) -> int:
    """Positions for both bounds; one for each digit, because some tokenizers have no longer numerals."""
    integers = [
        INTEGER_DIGITS if bound is None else len(str(abs(int(bound)))) for bound in (form.low, form.high)
    ]
    digits = min(max(integers), MAX_INTEGER_DIGITS)
    sign = int(form.low is None or form.low < 0)
    return digits + sign + (0 if form.integer else FRACTION_DIGITS)


def _constant_texts(forms: Sequence[ScalarForm]) -> list[str]:
    """The JSON texts of constants; empty if other values are permitted."""
    if not all(isinstance(form, ConstantForm) for form in forms):
        return []
    values = (value for form in forms if isinstance(form, ConstantForm) for value in form.values)
    return list(dict.fromkeys(map(json_text, values)))
