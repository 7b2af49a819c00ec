"""Settings of batch inference: those of the server, and those of its input and output.

A row gets the answer that a server with the same settings gives to the same request, so both have the same
keys and files: ``conf/serve/*.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from lladav.config.loader import CONF
from lladav.errors import UserError
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest
from serve.settings import Count, Seconds, ServeSettings, checked
from serve.settings_files import merged

PARAMS = "params."
REQUEST_FIELDS = frozenset({*ChatRequest.model_fields, *CompletionRequest.model_fields})
"""Fields of the requests that rows become."""
LONGEST_MS = 30 * 24 * 3600 * 1000
"""Default of ``limits.deadline_ms``, a month: nobody waits for a row."""
OFF = {"auth": "off", "keys": [], "keys_file": None}
"""Values that replace those of a server: a batch has no clients."""


class OutputFormat(StrEnum):
    """What is written for a row: columns of a table, or a line of OpenAI's batch output file."""

    parquet = "parquet"
    jsonl = "jsonl"
    openai = "openai"


class BatchSettings(ServeSettings):
    """All arguments of ``serve/batch.py``."""

    input: str
    """A parquet file, a JSON Lines file, OpenAI's batch request file, a Hugging Face dataset on disk, or a
    folder of images; a path or a URI. A folder may also hold several parquet or JSON Lines files."""
    output: str
    """Folder or URI of the answers. The same command resumes here."""
    format: OutputFormat | None = None
    """parquet, jsonl or openai; by default that of the input, and parquet for datasets and images."""
    prompt: str | None = None
    """Question of rows that have none, such as the images of a folder."""
    params: dict[str, Any] = Field(default={})
    """Fields of requests that rows do not set, as in params.temperature=0.5."""
    columns: dict[str, str] = Field(default={})
    """Columns of the input with other names, as in columns.prompt=question."""
    keep: list[str] = Field(default=[])
    """Columns that are copied to the output."""
    drop: list[str] = Field(default=[])
    """Columns that have no effect."""
    media_root: str | None = None
    """Folder or URI where relative paths of images and videos start; the folder of the input by default."""
    address: str | None = None
    """Address of a Ray cluster; by default the Ray that runs this job, or a private one."""
    task_rows: Count | None = None
    """Rows that are sent to an engine together, at most; by default four times ``engine.max_rows``."""
    part_rows: Count = 10_000
    """Rows after which an output file is completed."""
    part_seconds: Seconds = 60.0
    """Time after which an output file is completed; an interrupted run repeats at most the rows after it."""


def load_batch(arguments: Mapping[str, Any], conf: Path = CONF) -> BatchSettings:
    """The settings of some arguments; raises ``UserError`` in one line for settings that cannot work."""
    if fields := [key for key in arguments if key in REQUEST_FIELDS - set(BatchSettings.model_fields)]:
        raise UserError(f"{fields[0]}: a field of requests; write {PARAMS}{fields[0]}")
    typed = {key: _typed(key, value) for key, value in arguments.items()}
    values = {**merged(typed, conf), **OFF}
    values["limits"] = {"deadline_ms": LONGEST_MS, **(values.get("limits") or {})}
    return checked(BatchSettings, values)


def _typed(key: str, value: Any) -> Any:
    """A field of requests as YAML reads it, because requests tell numbers from texts."""
    if not key.startswith(PARAMS) or not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{key}={value}: not a YAML value; quote it") from None
