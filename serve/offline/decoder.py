"""The engine actor of a batch: a row becomes a request, the request an answer, as in the HTTP API.

The actor decodes the rows of several blocks together. While one block waits for its longest answer, rows of
the others take the rows of the engine that are free.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from lladav.storage.local_cache import local_model
from serve.api.responses.schemas import ResponsesRequest
from serve.api.routing.completion_routes import AskedFor, response_asked
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest
from serve.api.transport.validation import body_error
from serve.engine.replica import EngineReplica
from serve.errors import ApiError
from serve.ingress import service_of
from serve.offline.results import ResultForm, RowResult
from serve.offline.row_requests import CHAT, REQUEST, RESPONSES, TEXT, RowRequest
from serve.offline.settings import BatchSettings

LOG = logging.getLogger("ray.serve.engine")
READ: dict[str, tuple[type[BaseModel], Callable[[Any], AskedFor]]] = {
    CHAT: (ChatRequest, AskedFor),
    TEXT: (CompletionRequest, AskedFor),
    RESPONSES: (ResponsesRequest, response_asked),
}
"""The form of a body by endpoint, and what it asks for."""
QUEUED = 2
"""Rows that are prepared or decoded at a time, for each row of the engine."""


class UnobservedAnswer:
    """Observes an answer that nobody waits for."""

    def first_token(self) -> None:
        """Nothing is recorded."""

    def answered(self, usage: Mapping[str, Any]) -> None:
        """Nothing is recorded."""


class RowDecoder:
    """Answers blocks of requests; the class of a Ray Data actor pool."""

    def __init__(self, settings: BatchSettings, form: ResultForm) -> None:
        local = settings.model_copy(update={"model": str(local_model(settings.model))})
        self._engine, self._form = EngineReplica(local), form
        self._completions = service_of(local, self._engine, _ready).completions
        self._slots = asyncio.Semaphore(QUEUED * settings.engine.max_rows)

    async def __call__(self, block: pa.Table) -> pa.Table:
        """The results of a block of requests, in the order of its rows: Ray may repeat a block."""
        requests = [pickle.loads(each) for each in block[REQUEST].to_pylist()]
        return self._form.table(await asyncio.gather(*map(self.result, requests)))

    async def result(self, request: RowRequest) -> RowResult:
        """The result of one request. Raises ``RuntimeError`` if the engine is broken."""
        async with self._slots:
            try:
                return RowResult(request, await self._answer(request))
            except ApiError as error:
                failure = error
            except Exception:
                LOG.exception("row %d failed", request.row)
                failure = ApiError(500, "the row failed; its engine's log says why", code="internal_error")
        if failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._engine.check_health()  # otherwise a broken engine would turn all rows into errors
        return RowResult(request, failure)

    async def _answer(self, request: RowRequest) -> dict[str, Any]:
        if request.error is not None:
            raise request.error
        asked = _asked(request)
        try:
            prepared = await self._completions.prepare(asked.body, None)
        except ApiError as error:
            raise asked.renamed(error) from None
        if prepared.stream:
            raise ApiError(400, "stream: a batch has no streams; leave it out", param="stream")
        self._form.check(request, prepared)
        return json.loads(await self._completions.answer(prepared, UnobservedAnswer(), asked.writer))


def _asked(request: RowRequest) -> AskedFor:
    """What a row asks for, as at the endpoint; raises ``ApiError``."""
    kind, read = READ[request.endpoint]
    try:
        return read(kind.model_validate(request.body))
    except ValidationError as error:
        raise body_error(error, request.body, kind) from None


async def _ready() -> bool:
    return True
