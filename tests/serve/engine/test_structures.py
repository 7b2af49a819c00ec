"""A replica compiles the structure of a request in a thread; a request travels without automata."""

from __future__ import annotations

import asyncio
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lladav.decoding.params import DecodingOptions
from lladav.inputs.chat import ChatTokenizer
from lladav.structured.compiling import StructureKind, StructureSpec
from serve.engine import structures
from serve.engine.messages import EngineRequest
from serve.engine.structures import StructureCompiler
from serve.errors import ApiError
from tests.lladav.build import text_sample

TOKENIZER = ChatTokenizer.load(Path(__file__).parents[2] / "golden" / "tokenizer")
FREE = EngineRequest("request", text_sample("x", 4), 4, DecodingOptions(max_tokens=40), None, deadline=4e9)


def structured(source: str) -> EngineRequest:
    return replace(FREE, structure=StructureSpec(StructureKind.json_schema, source))


def options_of(request: EngineRequest) -> DecodingOptions:
    return asyncio.run(StructureCompiler(TOKENIZER).options_of(pickle.loads(pickle.dumps(request))))


def test_a_request_without_a_structure_keeps_its_options() -> None:
    assert options_of(FREE) == FREE.options


def test_a_structure_is_compiled_outside_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, compiled = list[str](), structures.compile_structure

    def record(spec: StructureSpec, tokenizer: ChatTokenizer, max_tokens: int) -> object:
        threads.append(threading.current_thread().name)
        return compiled(spec, tokenizer, max_tokens)

    monkeypatch.setattr(structures, "compile_structure", record)
    options = options_of(structured('{"type": "boolean"}'))
    assert options.outline is not None
    assert options.max_tokens == FREE.options.max_tokens
    (thread,) = threads
    assert thread.startswith("structures")


def test_a_structure_that_the_replica_cannot_compile_is_an_error() -> None:
    with pytest.raises(ApiError) as refused:
        options_of(structured('{"type": "string", "minLength": 900}'))
    assert (refused.value.status, refused.value.code) == (400, "schema_too_long")
