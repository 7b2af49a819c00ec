"""Schemas that are written to exhaust a compiler or to break it, as JSON text, and what became of each.

As a program it compiles them one after another and prints a JSON line for each, so that a test can bound the
memory and the time of a whole process.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_TOKENS = 1024
TOKENIZER = Path(__file__).parents[2] / "golden" / "tokenizer"


def hostile_schemas() -> dict[str, str]:
    """The texts by name."""
    return {**_large(), **_exponential(), **_circular(), **_numbers(), **_expressions(), **_malformed()}


def _large() -> dict[str, str]:
    names = [f"p{number}" for number in range(5000)]
    schemas: dict[str, Any] = {
        "10,000 texts": {"enum": [f"text {number}" for number in range(10_000)]},
        "10,000 numbers": {"enum": list(range(10_000))},
        "10,000 objects": {"enum": [{"id": number} for number in range(10_000)]},
        "5,000 optional properties": _record({name: {"type": "integer"} for name in names}),
        "5,000 required properties": _required({name: {"type": "null"} for name in names}),
        "2,000 alternatives": {"anyOf": [_record({f"a{n}": {"const": n}}) for n in range(2000)]},
        "2,000 exclusive alternatives": {"oneOf": [{"minimum": n} for n in range(2000)]},
        "10,000 definitions": {"$defs": {str(n): {} for n in range(10_000)}, "type": "null"},
        "a name of a million characters": _record({"a" * 10**6: {"type": "null"}}),
        "a constant of a million characters": {"const": "a" * 10**6},
        "1,000 rules for names": {
            "type": "object",
            "patternProperties": {f"^{n}[a-z]+{n}$": {} for n in range(1000)},
            "minProperties": 1,
        },
        "400 rules and 400 names": {
            "type": "object",
            "patternProperties": {f"^{n}[a-z]+{n}$": {} for n in range(400)},
            "properties": {f"{n}x{n}": {} for n in range(400)},
        },
        "a chain of 2,000 objects": {
            "$defs": {f"d{n}": _required({"next": {"$ref": f"#/$defs/d{n + 1}"}}) for n in range(2000)}
            | {"d2000": {"type": "null"}},
            **_required({f"d{n}": {"$ref": f"#/$defs/d{n}"} for n in range(2000)}),
        },
        "500 lengths": {"allOf": [{"type": "string", "minLength": n} for n in range(500)]},
    }
    return {name: json.dumps(schema) for name, schema in schemas.items()}


def _exponential() -> dict[str, str]:
    pairs = [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(24)]
    doubled = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    tree = {
        f"t{n}": _required({"left": {"$ref": f"#/$defs/t{n + 1}"}, "right": {"$ref": f"#/$defs/t{n + 1}"}})
        for n in range(40)
    }
    negated: Any = {"type": "integer"}
    for number in range(200):
        negated = {"not": {"allOf": [negated, {"minimum": number}]}}
    schemas = {
        "24 pairs of alternatives": {"type": "object", "allOf": pairs},
        "30 levels of doubled alternatives": {
            "$defs": {**doubled, "d30": {"type": "integer"}},
            "$ref": "#/$defs/d0",
        },
        "40 levels of doubled objects": {"$defs": {**tree, "t40": {"type": "null"}}, "$ref": "#/$defs/t0"},
        "24 exclusive pairs": {"allOf": [{"oneOf": [{"minLength": n}, {"maxLength": n}]} for n in range(24)]},
        "200 nested negations": negated,
        "20 conditions": {
            "type": "object",
            "allOf": [
                {"if": {"required": [f"a{n}"]}, "then": {"required": [f"b{n}"]}, "else": {"maxProperties": n}}
                for n in range(20)
            ],
        },
    }
    return {name: json.dumps(schema) for name, schema in schemas.items()}


def _circular() -> dict[str, str]:
    node = {"$ref": "#/$defs/a"}
    schemas = {
        "itself": {"$ref": "#"},
        "a pair that refer to each other": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": node}, **node},
        "itself in allOf": {"allOf": [{"$ref": "#"}]},
        "itself in anyOf": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        "itself in oneOf and a number": {"oneOf": [{"$ref": "#"}, {"type": "integer"}]},
        "itself in not": {"not": {"$ref": "#"}},
        "itself in if": {"if": {"$ref": "#"}, "then": {"type": "integer"}},
        "itself as a required property": _required({"a": {"$ref": "#"}}),
        "itself as an optional property": _record({"a": {"$ref": "#"}, "b": {"$ref": "#"}}),
        "itself as items": {"type": "array", "items": {"$ref": "#"}, "minItems": 2},
        "itself as possible items": {"type": "array", "items": {"$ref": "#"}},
        "itself as items, of which one counts": {
            "type": "array",
            "items": {"$ref": "#"},
            "contains": {"type": "array"},
        },
        "itself as names": {"type": "object", "propertyNames": {"$ref": "#"}, "minProperties": 1},
        "itself as other properties": {"type": "object", "additionalProperties": {"$ref": "#"}},
        "a dynamic reference to itself": {"$dynamicAnchor": "a", "$dynamicRef": "#a"},
    }
    deep = {
        "500 nested objects": ('{"type":"object","required":["a"],"properties":{"a":', "}}", 500),
        "500 nested arrays": ('{"type":"array","minItems":1,"items":', "}", 500),
        "500 nested allOf": ('{"allOf":[', "]}", 500),
        "500 nested anyOf": ('{"anyOf":[{"type":"null"},', "]}", 500),
        "500 nested not": ('{"not":', "}", 500),
        "100,000 nested arrays": ('{"items":', "}", 100_000),
    }
    texts = {name: json.dumps(schema) for name, schema in schemas.items()}
    return {**texts, **{name: begin * n + "true" + end * n for name, (begin, end, n) in deep.items()}}


def _numbers() -> dict[str, str]:
    return {
        "a bound of 400 digits": f'{{"type":"integer","minimum":1{"0" * 400}}}',
        "a constant of 5,000 digits": f'{{"const":{"9" * 5000}}}',
        "a bound of 1e999999999": '{"type":"number","minimum":1e999999999}',
        "a bound of 1e-999999999": '{"type":"number","exclusiveMinimum":0,"maximum":1e-999999999}',
        "steps of 1e-300": '{"type":"number","multipleOf":1e-300,"minimum":1}',
        "steps of 0": '{"type":"number","multipleOf":0}',
        "coprime steps": json.dumps({"allOf": [{"type": "integer", "multipleOf": p} for p in PRIMES]}),
        "NaN": '{"const":NaN}',
        "infinity": '{"type":"number","minimum":Infinity}',
        "a billion items": '{"type":"array","minItems":1000000000}',
        "a billion characters": '{"type":"string","minLength":1000000000}',
        "at most a trillion characters": '{"pattern":"^a+$","type":"string","maxLength":1000000000000}',
        "a billion properties": '{"type":"object","minProperties":1000000000}',
        "a million unique items": '{"type":"array","uniqueItems":true,"minItems":1000000}',
        "three unique truths": '{"items":{"type":"boolean"},"type":"array","uniqueItems":true,"minItems":3}',
        "a million that count": '{"type":"array","contains":{"const":1},"minContains":1000000}',
        "a length of 1e400": '{"type":"string","maxLength":1e400}',
        "a length of 2.0": '{"type":"string","maxLength":2.0}',
        "a thousand excluded numbers": json.dumps(
            {"type": "integer", "minimum": 0, "not": {"enum": list(range(1000))}}
        ),
    }


PRIMES = (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079)


def _expressions() -> dict[str, str]:
    patterns = (
        *("^(a+)+$", "^(a|a)*b$", "(x+x+)+y", "^(.*a){30}$", "^(a{1000}){1000}$", "^(a?){500}a{500}$"),
        *("^[a-z]{1,100000}$", "^.*a.{18}$", "^(?:.*[0-9]){12}(?:.*[a-z]){12}$", "(" * 2000 + ")" * 2000),
        *("^" + "".join(f"(?=.*{letter})" for letter in "abcdefghijklmnop") + ".*$", "a" * 10**5),
        *("^" + "|".join(f"a{n}b{n}" for n in range(20_000)) + "$", r"^\p{L}{50,400}$", "^(\\w\\W){400}$"),
        *(
            "(",
            "[",
            "a**",
            "(?<name>a)\\k<name>",
            "(a)\\1",
            "(?<=a)b",
            "\\",
            "a{2,1}",
            "[z-a]",
            "(?R)",
            "\ud800",
            "(?:(?:){999999}){999999}",
            "".join(map(chr, range(0x4E00, 0x4E00 + 5000))),
        ),
    )
    return {f"pattern {p[:40]}": json.dumps({"type": "string", "pattern": p}) for p in patterns}


WRONG_TYPES: dict[str, list[Any]] = {
    "type": [5, "file", [], ["integer", 3], None],
    "properties patternProperties $defs dependentSchemas": [[], 3, {"a": 3}],
    "required enum": ["x", 3, {"a": 1}],
    "pattern format $ref $id $anchor $schema": [3, [], None],
    "items additionalProperties not if contains": [3, "x", None],
    "anyOf allOf oneOf prefixItems": [{}, [], [3], "x"],
    "minLength maxItems minProperties minContains": [-1, "1", 1.5, [], True],
    "minimum multipleOf exclusiveMaximum": ["1", [], None, True],
    "uniqueItems": ["yes", 1],
    "dependentRequired": [[], {"a": "b"}, {"a": [3]}],
    "const": ["\ud800", {"\ud800": 1}],
}
"""Values of a wrong type by keywords."""


def _malformed() -> dict[str, str]:
    texts = ["3", '"x"', "null", "[]", "{", "", "{} {}", "\x00", '{"a":1,"a":2}', "\ud800", '{"\\ud800":{}}']
    cases = {
        f"{key}: {json.dumps(value)}": json.dumps({key: value})
        for keys, values in WRONG_TYPES.items()
        for key in keys.split()
        for value in values
    }
    surrogates = {
        "type": "object",
        "properties": {"\ud800": {"enum": ["\udfff", "a"]}},
        "required": ["\ud800"],
    }
    return {**{f"text {text!r}": text for text in texts}, **cases, "surrogates": json.dumps(surrogates)}


def _record(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _required(properties: dict[str, Any]) -> dict[str, Any]:
    return {**_record(properties), "required": list(properties)}


def outcomes() -> Iterator[dict[str, Any]]:
    """What became of each schema: name, tokens of its shortest answer, refusal, error, time, peak memory."""
    from lladav.inputs.chat import ChatTokenizer
    from lladav.structured.compiling import StructureKind, StructureSpec, compile_structure
    from lladav.structured.errors import SchemaError

    tokenizer = ChatTokenizer.load(TOKENIZER)
    for name, text in hostile_schemas().items():
        refusal = error = needed = None
        begin = time.perf_counter()
        try:
            spec = StructureSpec(StructureKind.json_schema, text)
            needed = compile_structure(spec, tokenizer, MAX_TOKENS).min_tokens
        except SchemaError as refused:
            refusal = f"{refused.code}: {refused}"
        except BaseException as unexpected:  # noqa: BLE001 - any other error is a finding
            error = f"{type(unexpected).__name__}: {unexpected}"[:300]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = round(time.perf_counter() - begin, 3)
        became = {"name": name, "min_tokens": needed, "refusal": refusal, "error": error}
        yield {**became, "seconds": seconds, "peak_bytes": peak}


if __name__ == "__main__":
    for outcome in outcomes():
        print(json.dumps(outcome), flush=True)
