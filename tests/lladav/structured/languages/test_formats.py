"""Formats: every accepted string is valid for the validators, and usual strings are accepted."""

from __future__ import annotations

import calendar
import datetime
import ipaddress
import json

import jsonschema
import jsonschema_rs
import pytest

from lladav.structured.errors import SchemaError
from lladav.structured.forms import StringForm
from lladav.structured.languages.building import Automata
from lladav.structured.languages.formats import FORMATS
from tests.lladav.structured.languages.walks import BYTES, ODD, Walker

USUAL = {
    "date-time": ["2026-11-29T17:30:00Z", "2024-02-29T23:59:59.123456+05:30", "1999-12-31T00:00:00-08:00"],
    "date": ["2026-11-29", "2000-02-29", "0001-01-01"],
    "time": ["17:30:00Z", "00:00:00.5+01:00"],
    "duration": ["P1D", "PT15M", "P1Y2M3DT4H5M6S", "P2W", "PT36H"],
    "email": ["jane.doe+tag@example.com", "a@b.co", "first_last@mail.example.org"],
    "idn-email": ["jane@example.com"],
    "hostname": ["example.com", "localhost", "a-b.c1.example.org", "www.Example.com"],
    "idn-hostname": ["example.com"],
    "ipv4": ["127.0.0.1", "255.255.255.255", "8.8.8.8"],
    "ipv6": ["::1", "2001:db8::8a2e:370:7334", "fe80::", "::", "1:2:3:4:5:6:7:8", "::ffff:192.168.0.1"],
    "uri": [
        "https://example.com/a/b?c=d&e=f#g",
        "http://127.0.0.1:8080/",
        "urn:isbn:0451450523",
        "mailto:a@b.org",
    ],
    "uri-reference": ["/a/b", "a/b.html?x=1", "#top", "?q=1", "https://example.com", ""],
    "iri": ["https://example.com/path"],
    "iri-reference": ["/a/b#c"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000", "ABCDEF00-0000-0000-0000-000000000000"],
    "uri-template": ["/users/{id}/items{?page,size}", "https://example.com/~{name}"],
    "json-pointer": ["", "/a/b~1c/0", "/été~0"],
    "relative-json-pointer": ["0#", "1/a/b", "12"],
    "regex": [r"^[a-z]+$", r"\d*\.\w+", "a b?c"],
}
WRONG = {
    "date-time": ["2026-11-29", "2026-13-01T00:00:00Z", "2023-02-29T00:00:00Z", "2026-11-29T24:00:00Z"],
    "date": ["2026-11-31", "2100-02-29", "0000-01-01", "26-01-01"],
    "ipv4": ["256.0.0.1", "1.2.3", "01.2.3.4"],
    "ipv6": ["1:2:3:4:5:6:7:8:9", "1::2::3", ":::", "12345::"],
    "email": ["a", "@b.c", "a@", "a..b@c.de"],
    "hostname": ["-a.com", "a..b", "xn--x.com", "a_b"],
    "uri": ["", "/a", "http://a b", "://x"],
    "uuid": ["123e4567e89b12d3a456426614174000"],
}


def walker(name: str) -> Walker:
    return Walker(Automata(BYTES).string(StringForm(formats=(name,)), quoted=False), BYTES)


def test_every_format_of_the_specification_has_usual_strings():
    assert set(USUAL) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_usual_strings_are_accepted_and_wrong_ones_are_not(name: str):
    strings = walker(name)
    for value in USUAL[name]:
        assert strings.has(json.dumps(value, ensure_ascii=False)[1:-1]), value
    for value in WRONG.get(name, []):
        assert not strings.has(value), value


@pytest.mark.parametrize("name", FORMATS)
def test_accepted_strings_are_valid(name: str):
    schema = {"format": name}
    slow = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    fast = jsonschema_rs.validator_for(schema, validate_formats=True)
    automaton = Automata(ODD).string(StringForm(formats=(name,)), quoted=True)
    for text in Walker(automaton, ODD).samples(100, length=30):
        assert slow.is_valid(json.loads(text)), text
        assert fast.is_valid(json.loads(text)), text


def test_dates_are_the_days_of_the_calendar():
    dates = walker("date")
    for year in (1, 4, 99, 100, 400, 1900, 1999, 2000, 2024, 2026, 2100, 9999):
        for month in range(1, 13):
            for day in range(1, 32):
                exists = day <= calendar.monthrange(year, month)[1]
                assert dates.has(f"{year:04}-{month:02}-{day:02}") == exists
    assert datetime.date.fromisoformat("0001-01-01")
    assert not dates.has("0000-02-29")


def test_addresses_are_those_of_the_standard_library():
    for text in Walker(Automata(BYTES).string(StringForm(formats=("ipv6",)), quoted=False), BYTES).samples(
        300
    ):
        assert ipaddress.IPv6Address(text)


def test_a_format_and_a_pattern_hold_together():
    form = StringForm(formats=("date",), patterns=("^2026-",))
    dates = Walker(Automata(BYTES).string(form, quoted=False), BYTES)
    assert dates.has("2026-02-28")
    assert not dates.has("2025-02-28")


def test_an_unknown_format_is_refused():
    with pytest.raises(SchemaError, match="'phone', which is not supported"):
        Automata(BYTES).string(StringForm(formats=("phone",)), quoted=False)
