"""Measures automata over tokens: their size, the time to build them, and the time per step.

    python tests/bench/bench_languages.py [--tekken FILE]

Builds each automaton over 126,464 tokens, as many as LLaDA-V has, and finds the most probable sequence of 32
positions under random distributions. The vocabulary is made up, or is that of a tokenizer file of Mistral
(`tekken*.json` in the package mistral-common).
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import islice, product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from lladav.structured.forms import NumberForm, StringForm  # noqa: E402
from lladav.structured.languages.automaton import TokenAutomaton  # noqa: E402
from lladav.structured.languages.building import Automata  # noqa: E402
from lladav.structured.languages.vocabulary import Vocabulary  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402

NUM_TOKENS = 126_464
POSITIONS = 32


def made_up_tokens() -> list[bytes]:
    """All bytes, numbers, punctuation, some characters beyond ASCII, and words of three syllables."""
    syllables = [a + b for a, b in product("bcdfghjklmnprstvwz", "aeiou")]
    words = ("".join(parts) for length in (1, 2, 3) for parts in product(syllables, repeat=length))
    spelled = (text for word in words for text in (word, f" {word}", f" {word.capitalize()}"))
    others = [*map(str, range(1000)), '": "', '",', "\\n", '\\"', *(" " * n for n in range(2, 40))]
    others += [chr(point) for point in range(0xA0, 0x3000)]
    texts = dict.fromkeys(text.encode() for text in (*others, *islice(spelled, NUM_TOKENS)))
    return [*(bytes([byte]) for byte in range(256)), *(each for each in texts if len(each) > 1)][:NUM_TOKENS]


def tokens_of(file: Path) -> list[bytes]:
    """The tokens of a tokenizer file of Mistral."""
    entries = json.loads(file.read_text(encoding="utf-8"))["vocab"][:NUM_TOKENS]
    return [base64.b64decode(entry["token_bytes"]) for entry in entries]


def builders(vocabulary: Vocabulary) -> dict[str, Callable[[], TokenAutomaton]]:
    """Usual forms, by what they are."""

    def strings(**conditions: object) -> Callable[[], TokenAutomaton]:
        return lambda: Automata(vocabulary).string(StringForm(**conditions), quoted=False)  # pyright: ignore[reportArgumentType]

    return {
        "any string": strings(),
        "maxLength 100": strings(max_length=100),
        "maxLength 5000": strings(max_length=5000),
        "enum of 20": lambda: Automata(vocabulary).texts([f"value {number}" for number in range(20)]),
        "enum of 10,000": lambda: Automata(vocabulary).texts([f"value {each}" for each in range(10_000)]),
        "number": lambda: Automata(vocabulary).number(NumberForm()),
        "multiple of 0.01": lambda: Automata(vocabulary).number(NumberForm(multiples=(Fraction("0.01"),))),
        r"^[a-z0-9]+(-[a-z0-9]+)*$": strings(patterns=("^[a-z0-9]+(-[a-z0-9]+)*$",)),
        r"^(?=.*\d)(?=.*[a-z]).{8,}$": strings(patterns=(r"^(?=.*\d)(?=.*[a-z]).{8,}$",)),
        r"^\p{L}+$": strings(patterns=(r"^\p{L}+$",)),
        r"^.{0,5000}.{0,5000}$": strings(patterns=(r"^.{0,5000}.{0,5000}$",)),
        "date-time": strings(formats=("date-time",)),
        "email": strings(formats=("email",)),
        "uri": strings(formats=("uri",)),
    }


def seconds_per_step(automaton: TokenAutomaton, num_tokens: int) -> float:
    """Median time to find the most probable sequence under a random distribution."""
    scores_NV = np.random.default_rng(0).normal(size=(POSITIONS, num_tokens)).astype(np.float32)
    best_NK = np.full((POSITIONS, automaton.num_classes), -np.inf)
    for name in range(automaton.num_classes):
        best_NK[:, name] = scores_NV[:, automaton.class_of_V == name].max(axis=1, initial=-np.inf)
    padding_N = np.zeros(POSITIONS)
    automaton.most_probable(best_NK, padding_N)  # builds what it keeps
    times = []
    for _ in range(20):
        started = time.perf_counter()
        automaton.most_probable(best_NK, padding_N)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tekken", type=Path, help="a tokenizer file of Mistral")
    arguments = parser.parse_args()
    tokens = tokens_of(arguments.tekken) if arguments.tekken else made_up_tokens()
    vocabulary = Vocabulary(tokens)
    started = time.perf_counter()
    assert vocabulary.trie.parents_N.size
    print(
        f"{len(vocabulary):,} tokens; trie {1000 * (time.perf_counter() - started):.0f} ms, once per process"
    )
    Automata(vocabulary).string(StringForm(patterns=(r"^\d\s\w.$",)), quoted=True)  # reads Unicode's tables
    rows, results = list[list[str]](), list[tuple[str, float, float]]()
    for name, build in builders(vocabulary).items():
        started = time.perf_counter()
        automaton = build()
        built = 1000 * (time.perf_counter() - started)
        step = 1000 * seconds_per_step(automaton, len(vocabulary))
        sizes = len(automaton.accepting_S), len(automaton.sources_E), automaton.num_classes
        rows.append([name, *(f"{size:,}" for size in sizes), f"{built:.0f}", f"{step:.2f}"])
        results.append((name, built, step))
    table(["language", "states", "edges", "classes", "build (ms)", "step (ms)"], rows)
    for name, built, step in results:
        against = f"{len(vocabulary)} tokens, {POSITIONS} positions"
        report("build_automaton", built, "ms", against, language=name)
        report("most_probable", step, "ms", against, language=name)


if __name__ == "__main__":
    main()
