"""The formats of JSON Schema as regular languages.

A language may have fewer strings than its format: it has the usual forms, and every string of it is valid for
validators. Names and addresses are ASCII, also those of the internationalized formats.
"""

from __future__ import annotations

from lladav.structured.budget import Budget
from lladav.structured.errors import SchemaError
from lladav.structured.languages.conditions import StringCondition
from lladav.structured.languages.regex_condition import RegexCondition, whole
from lladav.structured.languages.regex_syntax import parse_regex
from lladav.structured.languages.unicode_classes import ECMA

# Dates and times of RFC 3339. Python has no year 0000.
LEAP = "(?:0[48]|[2468][048]|[13579][26])"
DATE = (
    r"(?!0000)(?:\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    rf"|02-(?:0[1-9]|1\d|2[0-8]))|(?:\d\d{LEAP}|{LEAP}00)-02-29)"
)
TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
DAYS = r"\d{1,6}D"
MONTHS = rf"\d{{1,6}}M(?:{DAYS})?"
YEARS = rf"\d{{1,4}}Y(?:{MONTHS})?"
SECONDS = r"\d{1,6}S"
MINUTES = rf"\d{{1,6}}M(?:{SECONDS})?"
HOURS = rf"\d{{1,6}}H(?:{MINUTES})?"
CLOCK = f"T(?:{HOURS}|{MINUTES}|{SECONDS})"
DURATION = rf"P(?:(?:{DAYS}|{MONTHS}|{YEARS})(?:{CLOCK})?|{CLOCK}|\d{{1,6}}W)"

# Names and addresses of hosts. No label has two hyphens in a row: "xn--" would begin an encoded one.
LABEL = "[A-Za-z0-9](?:-?[A-Za-z0-9]){0,30}"
LAST_LABEL = "[A-Za-z](?:-?[A-Za-z0-9]){0,30}"
HOSTNAME = rf"(?:{LABEL}\.){{0,3}}{LAST_LABEL}"
LOCAL_PART = r"[A-Za-z0-9_+-]{1,20}(?:\.[A-Za-z0-9_+-]{1,20}){0,2}"
EMAIL = f"{LOCAL_PART}@{HOSTNAME}"
BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
IPV4 = rf"{BYTE}(?:\.{BYTE}){{3}}"
GROUP = "[0-9a-fA-F]{1,4}"
IPV6 = "|".join([
    f"(?:{GROUP}:){{7}}{GROUP}",
    f"(?:{GROUP}:){{1,7}}:",
    *(f"(?:{GROUP}:){{1,{7 - after}}}(?::{GROUP}){{1,{after}}}" for after in range(1, 7)),
    f":(?::{GROUP}){{1,7}}",
    "::",
    f"::[fF]{{4}}:{IPV4}",
])  # fmt: skip

# URIs of RFC 3986 with a host, or with a path alone ("urn:isbn:0451450523").
PATH_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
SEGMENTS = f"(?:/{PATH_CHARACTER}*)*"
QUERY = rf"(?:\?(?:{PATH_CHARACTER}|[/?])*)?(?:#(?:{PATH_CHARACTER}|[/?])*)?"
AUTHORITY = rf"(?:{HOSTNAME}|{IPV4})(?::[1-9]\d{{0,3}})?"
URI = rf"[A-Za-z][A-Za-z0-9+.-]*:(?://{AUTHORITY}{SEGMENTS}|{PATH_CHARACTER}+{SEGMENTS}){QUERY}"
RELATIVE = rf"(?:/(?:{PATH_CHARACTER}+{SEGMENTS})?|(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{{2}})+{SEGMENTS})?{QUERY}"
URI_REFERENCE = f"{URI}|{RELATIVE}"
VARIABLES = r"\{[+#./;?&]?[A-Za-z0-9_]+(?:,[A-Za-z0-9_]+)*\}"
URI_TEMPLATE = rf"(?:[A-Za-z0-9/._~:?#=&@-]|{VARIABLES})*"

JSON_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
RELATIVE_JSON_POINTER = rf"(?:0|[1-9]{{1,6}})(?:#|{JSON_POINTER})"  # jsonschema refuses 10
CLASS = r"\[\^?(?:[A-Za-z0-9_ ]|a-z|A-Z|0-9)+\]"
ATOM = rf"""(?:[A-Za-z0-9 _@/:,;<>=!"'%&~`#-]|\\[dws.*+?()\[\]{{}}|^$/\\-]|\.|{CLASS})"""
REGEX = rf"\^?(?:{ATOM}[*+?]?)*\$?"

FORMATS = {
    "date-time": f"{DATE}T{TIME}",
    "date": DATE,
    "time": TIME,
    "duration": DURATION,
    "email": EMAIL,
    "idn-email": EMAIL,
    "hostname": HOSTNAME,
    "idn-hostname": HOSTNAME,
    "ipv4": IPV4,
    "ipv6": IPV6,
    "uri": URI,
    "uri-reference": URI_REFERENCE,
    "iri": URI,
    "iri-reference": URI_REFERENCE,
    "uuid": "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri-template": URI_TEMPLATE,
    "json-pointer": JSON_POINTER,
    "relative-json-pointer": RELATIVE_JSON_POINTER,
    "regex": REGEX,
}
"""An expression for the whole string, by the name of the format."""


def format_condition(name: str, search: Budget) -> StringCondition:
    """Strings of a format; raises ``SchemaError`` for one that is not known."""
    if name not in FORMATS:
        raise SchemaError(
            "", f"has the format {name!r}, which is not supported; use one of {', '.join(FORMATS)}"
        )
    return RegexCondition(whole(parse_regex(FORMATS[name], ECMA)), ECMA.boundary_words, search)
