"""Damaged images of all kinds, sent to the API: each is answered or refused with an OpenAI error."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from lladav.inputs.image_files import FORMATS
from tests.serve.apis import LocalEngines
from tests.serve.clusters import Outcome, ask
from tests.serve.images import LEAKS, encoded, sample_image, uri

pytestmark = [pytest.mark.proof, pytest.mark.slow]
SHORT, LONG = 120, 6000
AT_A_TIME = 8
FILES = {name: encoded(sample_image(), name) for name in FORMATS}
Damage = Callable[[bytes, random.Random], bytes]


def flip_bits(content: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def cut_off(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(1, len(content))]


def leave_out(content: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(content))
    return content[:begin] + content[begin + draw.randint(1, 64) :]


def repeat(content: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(content))
    return (
        content[:begin] + content[begin : begin + draw.randint(1, 64)] * draw.randint(2, 50) + content[begin:]
    )


def claim_more(content: bytes, draw: random.Random) -> bytes:
    """Overwrite a number in the header, where sizes and counts are, with an extreme one."""
    at = draw.randrange(4, 40)
    return content[:at] + draw.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x00" * 4]) + content[at + 4 :]


def continue_as_another_format(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + draw.choice(list(FILES.values()))[at:]


DAMAGES: list[Damage] = [flip_bits, cut_off, leave_out, repeat, claim_more, continue_as_another_format]


def test_damaged_images_are_answered_or_refused(api: str, engines: LocalEngines, full: bool) -> None:
    count = LONG if full else SHORT
    outcomes = asyncio.run(_send(api, count))
    for outcome in outcomes:
        _check(outcome)
    statuses = Counter(outcome.status for outcome in outcomes)
    slowest = max(outcome.seconds for outcome in outcomes)
    print(f"\n{count} damaged images: statuses {dict(statuses)}, slowest {slowest:.1f} s")
    assert set(statuses) <= {200, 400, 413}
    assert asyncio.run(_send(api, 1, damages=[lambda content, _: content]))[0].ok
    assert engines.worker.alive


def _check(outcome: Outcome) -> None:
    if outcome.status != 200:
        error = outcome.error
        assert error is not None
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["param"].startswith("messages[0].content[")
        assert not any(leak in json.dumps(error) for leak in LEAKS)


async def _send(api: str, count: int, damages: list[Damage] = DAMAGES) -> list[Outcome]:
    gate, draw = asyncio.Semaphore(AT_A_TIME), random.Random(0)
    bodies = [_request(number, draw, damages) for number in range(count)]

    async def one(session: aiohttp.ClientSession, body: dict[str, Any]) -> Outcome:
        async with gate:
            return await ask(session, api, **body)

    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(one(session, body) for body in bodies))


def _request(number: int, draw: random.Random, damages: list[Damage]) -> dict[str, Any]:
    """A question about an image, or about two with the second intact: two are padded, one is tiled."""
    name = FORMATS[number % len(FORMATS)]
    urls = [uri(draw.choice(damages)(FILES[name], draw)), *[uri(FILES[name])] * (number % 4 == 0)]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*parts, {"type": "text", "text": "What is this?"}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "stream": number % 3 == 0}
