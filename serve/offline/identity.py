"""What determines the answers of a batch: an output folder is bound to one input and one set of settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from lladav.checkpoint import weights_digest
from lladav.config.introspection import flatten, nearest
from lladav.errors import UserError
from serve.api.schemas.completion_requests import ChatRequest
from serve.api.transport.validation import body_error
from serve.offline.inputs.forms import FORMS, BatchInput, InputForm
from serve.offline.row_requests import BATCH_FIELDS, SHORT_FIELDS
from serve.offline.settings import REQUEST_FIELDS, BatchSettings, OutputFormat

CONTENT = "input.content"
"""Key of the digest of the input."""
WEIGHTS = "model.weights"
"""Key of the digest of the weights, wherever they are."""
NO_EFFECT = (
    *("model", "adapters", "output", "address", "task_rows", "part_rows", "part_seconds"),
    *("auth", "keys", "keys_file", "limits_storage", "scaling", "ingress", "media.workers"),
)
"""Settings and sections that a resumed run may change."""
ENGINE, ENGINE_DTYPE = "engine.", "engine.dtype"
"""Of the engine, only the number format of the weights changes answers."""
FIELDS = sorted({*REQUEST_FIELDS, *SHORT_FIELDS, *BATCH_FIELDS})


def identity(settings: BatchSettings, source: BatchInput, output: OutputFormat) -> dict[str, Any]:
    """The settings that determine the answers, by dotted key, and a digest of the input."""
    found = flatten(settings.model_dump(mode="json"))
    own = {key: value for key, value in found.items() if _has_effect(key)}
    where = {"input": str(source.path), "format": output.value}
    adapters = {f"adapters.{name}": weights_digest(folder) for name, folder in settings.adapters.items()}
    return {**own, **where, **adapters, CONTENT: _digest(source), WEIGHTS: weights_digest(settings.model)}


def _has_effect(key: str) -> bool:
    if key.startswith(ENGINE):
        return key == ENGINE_DTYPE
    return not any(key == each or key.startswith(f"{each}.") for each in NO_EFFECT)


def _digest(source: BatchInput) -> str:
    content = [source.stamps(), [shard.names for shard in source.shards]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def output_format(settings: BatchSettings, source: BatchInput) -> OutputFormat:
    """The format of the output: as the settings say, or that of the input."""
    if settings.format is not None:
        return settings.format
    if source.form is not InputForm.json_lines:
        return OutputFormat.parquet
    first = next(FORMS[source.form].read(source.shards[0]))
    return OutputFormat.openai if isinstance(first, dict) and "body" in first else OutputFormat.jsonl


def kept_columns(settings: BatchSettings, source: BatchInput) -> pa.Schema:
    """The columns that are copied to the output: as in the input if it is a table, else as text."""
    types = {} if source.schema is None else {each.name: each.type for each in source.schema}
    return pa.schema([(name, types.get(name, pa.string())) for name in settings.keep])


def check(settings: BatchSettings, source: BatchInput) -> None:
    """Raise ``UserError`` for settings and columns with which rows would be refused."""
    body = {"model": settings.name, "messages": [{"role": "user", "content": ""}], **settings.params}
    try:
        ChatRequest.model_validate(body)
    except ValidationError as error:
        raise UserError(f"params.{body_error(error, body, ChatRequest).message}") from None
    if problem := next(_problems(settings, source), None):
        raise UserError(problem)


def _problems(settings: BatchSettings, source: BatchInput) -> Iterator[str]:
    if source.form is InputForm.images and settings.prompt is None:
        yield f"input={source.path}: images have no questions; set one, as in prompt='What is this?'"
    for field in settings.columns:
        if field not in FIELDS:
            guess = nearest(field, FIELDS) or "prompt"
            yield f"columns.{field}: no field of a request; did you mean {guess}?"
    if source.schema is None:
        return
    names, renamed = source.schema.names, settings.columns.values()
    for column in [*renamed, *settings.keep]:
        if column not in names:
            yield f"{column}: no column of the input; it has {', '.join(names)}"
    known = {*FIELDS, *renamed, *settings.keep, *settings.drop}
    if unknown := [name for name in names if name not in known]:
        listed = ",".join(unknown)
        yield (
            f"input={source.path}: {listed}: no field of a request; set drop=[{listed}], keep=[{listed}] to "
            "copy it to the output, or columns.FIELD=COLUMN"
        )
