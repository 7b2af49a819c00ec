"""Compares libraries that turn regular expressions into automata, on the patterns of a file of schemas.

    python tests/bench/compare_automata.py NAME SCHEMAS [--tekken FILE] [--count 150]

NAME is `lladav`, `interegular`, `greenery`, `automata` or `outlines`; the last four need the packages
interegular, greenery, automata-lib and outlines_core, none of which lladav uses. SCHEMAS is a gzipped file
with one `{"schema": ...}` a line. `lladav` and `outlines` build an index over the tokens of a vocabulary, the
others stop at characters. Libraries without anchors get the pattern without them. Prints how many of the
patterns are built within 2 seconds, and the time of these.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from lladav.structured.forms import StringForm  # noqa: E402
from lladav.structured.languages.building import Automata  # noqa: E402
from lladav.structured.languages.vocabulary import Vocabulary  # noqa: E402
from tests.bench.bench_languages import made_up_tokens, tokens_of  # noqa: E402

LIMIT = 2.0
"""Seconds for a pattern."""


def patterns_in(value: object) -> Iterator[str]:
    """All values of ``pattern`` and keys of ``patternProperties``."""
    if isinstance(value, dict):
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        if isinstance(value.get("patternProperties"), dict):
            yield from value["patternProperties"]
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from patterns_in(each)


def without_anchors(pattern: str) -> str:
    """The pattern without ``^`` at its start and ``$`` at its end."""
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    return pattern.removeprefix("^")[: -1 if ends else None]


def builder(name: str, tokens: list[bytes]) -> Callable[[str], Any]:
    """A function that builds the automaton of a pattern."""
    if name == "lladav":
        vocabulary = Vocabulary(tokens)
        return lambda pattern: Automata(vocabulary).string(StringForm(patterns=(pattern,)), quoted=True)
    if name == "interegular":
        parse = importlib.import_module("interegular").parse_pattern
        return lambda pattern: parse(without_anchors(pattern)).to_fsm()
    if name == "greenery":
        parse = importlib.import_module("greenery").parse
        return lambda pattern: parse(without_anchors(pattern)).to_fsm()
    if name == "automata":
        nfa, dfa = (
            getattr(importlib.import_module(f"automata.fa.{each}"), each.upper()) for each in ("nfa", "dfa")
        )
        return lambda pattern: dfa.from_nfa(nfa.from_regex(without_anchors(pattern)))
    core = importlib.import_module("outlines_core")
    ids = dict[bytes, list[int]]()
    for token, data in enumerate(tokens):
        ids.setdefault(data, []).append(token)
    vocabulary = core.Vocabulary(len(tokens), ids)
    return lambda pattern: core.Index(without_anchors(pattern), vocabulary)


def interrupt(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=["lladav", "interegular", "greenery", "automata", "outlines"])
    parser.add_argument("schemas", type=Path)
    parser.add_argument("--tekken", type=Path, help="a tokenizer file of Mistral")
    parser.add_argument("--count", type=int, default=150, help="patterns, drawn at random; default 150")
    arguments = parser.parse_args()
    with gzip.open(arguments.schemas, "rt", encoding="utf-8") as lines:
        found = sorted({each for line in lines for each in patterns_in(json.loads(line)["schema"])})
    chosen = random.Random(0).sample(found, min(arguments.count, len(found)))
    build = builder(arguments.name, tokens_of(arguments.tekken) if arguments.tekken else made_up_tokens())
    signal.signal(signal.SIGALRM, interrupt)
    seconds, errors = list[float](), Counter[str]()
    for pattern in ["^a$", *chosen]:  # the first one loads what stays in memory
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        started = time.process_time()
        try:
            build(pattern)
            seconds.append(time.process_time() - started)
        except Exception as error:  # noqa: BLE001 - each library has errors of its own
            errors[type(error).__name__] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    *_, slow = statistics.quantiles(seconds[1:], n=10)
    median = statistics.median(seconds[1:])
    print(f"{arguments.name}: {len(seconds) - 1} of {len(chosen)} patterns built; errors {dict(errors)}")
    print(f"median {1e3 * median:.1f} ms, 90th percentile {1e3 * slow:.1f} ms")


if __name__ == "__main__":
    main()
