"""HEAD, OPTIONS, pages of other origins, and compressed bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.api.transport.content_encoding import PIECE_BYTES, ContentDecoder
from serve.errors import ApiError
from serve.settings import Auth, KeySettings, ServeSettings
from tests.serve.apis import NAME, LocalEngines, app_of
from tests.serve.asgi import Answer, ask, parts

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}).encode()
PAGE = "https://app.example"


class TestMethods:
    """Probes and load balancers send HEAD and OPTIONS."""

    @pytest.mark.parametrize("path", ["/", "/health", "/ready", "/v1/models", "/playground/index.html"])
    def test_head_is_get_without_the_body(self, client: httpx.Client, path: str):
        head, whole = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]
        assert head.headers["content-type"] == whole.headers["content-type"]

    def test_head_of_nothing_is_not_found(self, client: httpx.Client):
        assert client.head("/v1/nothing").status_code == 404
        assert client.head(CHAT).status_code == 405

    @pytest.mark.parametrize(
        ("path", "methods"), [(CHAT, "OPTIONS, POST"), ("/v1/models", "GET, HEAD, OPTIONS")]
    )
    def test_options_lists_the_methods(self, client: httpx.Client, path: str, methods: str):
        response = client.options(path)
        assert (response.status_code, response.headers["allow"]) == (204, methods)
        refused = client.delete(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, methods)


def keyed(served: ServeSettings, *origins: str) -> ServeSettings:
    """Settings with a key that nobody has, and pages of other origins."""
    ingress = served.ingress.model_copy(update={"cors_origins": list(origins)})
    key = KeySettings(name="a", sha256="0" * 64)
    return served.model_copy(update={"auth": Auth.keys, "keys": [key], "ingress": ingress})


class TestCrossOrigin:
    """A page of another origin may use the API if the settings list its origin."""

    @staticmethod
    def asked(settings: ServeSettings, engines: LocalEngines, method: str = "POST", **headers: str) -> Answer:
        sent = {"origin": PAGE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return asyncio.run(ask(app_of(settings, engines), CHAT, parts(BODY), method=method, headers=sent))

    @pytest.mark.parametrize("origin", [PAGE, "*"])
    def test_a_preflight_needs_no_key(self, served: ServeSettings, engines: LocalEngines, origin: str):
        wanted = {"access_control_request_method": "POST"}
        wanted["access_control_request_headers"] = "authorization,content-type,x-stainless-lang"
        answer = self.asked(keyed(served, origin), engines, "OPTIONS", **wanted)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "x-stainless-lang" in answer.headers["access-control-allow-headers"]

    def test_errors_can_be_read_by_the_page(self, served: ServeSettings, engines: LocalEngines):
        answer = self.asked(keyed(served, PAGE), engines)
        assert answer.status == 401
        assert answer.headers["access-control-allow-origin"] == PAGE

    def test_other_origins_get_no_headers(self, served: ServeSettings, engines: LocalEngines):
        for origins in ([], ["https://other.example"]):
            answer = self.asked(keyed(served, *origins), engines)
            assert "access-control-allow-origin" not in answer.headers

    def test_a_listed_origin_may_ask_a_server_without_keys(
        self, served: ServeSettings, engines: LocalEngines
    ):
        assert self.asked(served, engines).status == 403
        ingress = served.ingress.model_copy(update={"cors_origins": [PAGE]})
        listed = served.model_copy(update={"ingress": ingress})
        answer = self.asked(listed, engines, content_type="application/json")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, PAGE)


class TestCompressedBodies:
    """``Content-Encoding: gzip``."""

    def test_a_compressed_request_is_answered(self, client: httpx.Client):
        plain = {"Content-Type": "application/json"}
        packed = {**plain, "Content-Encoding": "gzip"}
        whole = client.post(CHAT, content=BODY, headers=plain).json()
        same = client.post(CHAT, content=gzip.compress(BODY), headers=packed).json()
        assert same["choices"] == whole["choices"]

    def test_the_size_after_decompression_is_limited(self, client: httpx.Client, served: ServeSettings):
        bomb = gzip.compress(b" " * (served.limits.body_bytes + 1))
        assert len(bomb) < 2**16
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        response = client.post(CHAT, content=bomb, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")

    @pytest.mark.parametrize(
        ("encoding", "content", "status", "code"),
        [
            ("br", BODY, 415, "unsupported_encoding"),
            ("gzip, gzip", BODY, 415, "unsupported_encoding"),
            ("gzip", BODY, 400, "invalid_gzip"),
            ("gzip", gzip.compress(BODY)[:-1], 400, "invalid_gzip"),
            ("gzip", gzip.compress(BODY) + b"x", 400, "invalid_gzip"),
            ("gzip", b"", 400, "invalid_gzip"),
        ],
        ids=["another", "twice", "plain", "cut", "with more behind", "empty"],
    )
    def test_other_encodings_are_refused(
        self, client: httpx.Client, encoding: str, content: bytes, status: int, code: str
    ):
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        response = client.post(CHAT, content=content, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)

    @given(st.binary(max_size=200), st.integers(1, 5000), st.integers(1, 3000))
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def test_any_body_in_any_pieces(self, content: bytes, repeat: int, size: int):
        body = content * repeat
        packed = gzip.compress(body)
        pieces = asyncio.run(decoded([packed[at : at + size] for at in range(0, len(packed), size)]))
        assert b"".join(pieces) == body
        assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)

    def test_memory_is_bounded_while_the_caller_counts(self):
        bomb = gzip.compress(bytes(64 * PIECE_BYTES))

        async def first_two() -> int:
            tracemalloc.start()
            pieces = ContentDecoder().decoded(iterated([bomb]), "gzip")
            read = [await anext(pieces) for _ in range(2)]
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert sum(map(len, read)) == 2 * PIECE_BYTES
            return peak

        assert asyncio.run(first_two()) < 5 * PIECE_BYTES

    def test_a_wrong_checksum_is_found(self):
        packed = bytearray(gzip.compress(b"x" * 999))
        packed[-8] ^= 1  # the checksum
        with pytest.raises(ApiError, match="damaged"):
            asyncio.run(decoded([bytes(packed)]))


async def iterated(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def decoded(chunks: list[bytes]) -> list[bytes]:
    return [piece async for piece in ContentDecoder().decoded(iterated(chunks), "gzip")]
