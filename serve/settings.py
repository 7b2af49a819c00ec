"""All settings of serving: typed, without unknown keys, read from ``conf/serve/*.yaml``.

``serve run serve.app:build config=local model=FOLDER engine.max_rows=8`` and ``args`` in a Serve config file
mean the same: the file of ``conf/serve`` that ``config`` names, overridden by the other arguments, which are
nested or dotted keys.

To add a setting, add a field with a text under it. To limit something for a single API key, add an optional
field to ``KeySettings``: see ``serve.api.planning.request_limits``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from lladav.config.loader import CONF
from lladav.decoding.params import Cache
from lladav.decoding.unmasking import given_rule_parameters
from lladav.errors import UserError
from serve.decoding_params import DecodingParams
from serve.settings_files import merged
from serve.validation_errors import settings_error

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A group of settings. Unknown keys are refused; the text under a field is its documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


class Auth(StrEnum):
    """Who may use the server: holders of an API key, or anyone on this machine."""

    keys = "keys"
    off = "off"


class KeySettings(Section):
    """An API key, stored as its hash, with its limits; ``python -m serve.keys`` makes one."""

    name: str
    """Name of the holder, which logs show in place of the key."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key, in hexadecimal."""
    requests_per_minute: Count = 600
    """Requests of this key in any minute."""
    concurrency: Count = 64
    """Requests of this key that may run at the same time in each ingress replica."""


def key_conflict(keys: Sequence[KeySettings]) -> str | None:
    """Why keys cannot be used together; none if they can."""
    if len({key.name for key in keys}) < len(keys):
        return "names differ from each other; rename one"
    if len({key.sha256 for key in keys}) < len(keys):
        return "two entries are of the same key; make another one"
    return None


class MediaSettings(Section):
    """Limits of images and videos, checked before any is decoded."""

    images: Count = 8
    """Images of a request, at most."""
    image_bytes: Count = 10 * 2**20
    """Size of one encoded image, at most."""
    pixels: Count = 40_000_000
    """Width times height of one image or of the frames of a video, at most."""
    seconds: Seconds = 10.0
    """Time limit for decoding and tiling one image, after which its process is killed."""
    videos: Annotated[int, Field(ge=0)] = 1
    """Videos of a request, at most."""
    video_bytes: Count = 20 * 2**20
    """Size of one encoded video in a request, at most."""
    video_seconds: Seconds = 60.0
    """Time limit for decoding the frames of one video."""
    directories: list[Annotated[str, Field(pattern="^/")]] = []
    """Absolute paths of directories with videos that requests may name by file:// URLs. Every client may read
    all videos below them. The size of such a file is not limited."""
    workers: Count = 2
    """Processes that decode images in each ingress replica; as many decode videos."""


class FetchSettings(Section):
    """Fetching images by https URL; off if ``hosts`` is empty."""

    hosts: list[str] = []
    """Hosts from which images may be fetched, without wildcards."""
    seconds: Seconds = 5.0
    """Time limit for one fetch, from resolving the name to the last byte."""


class LimitSettings(Section):
    """Limits of one request; ``serve.api.planning.request_limits`` checks the counts among them."""

    body_bytes: Count = 32 * 2**20
    """Size of a body, at most."""
    text_bytes: Count = 2**20
    """Size of a body without its images, at most."""
    body_seconds: Seconds = 30.0
    """Time limit for a body to arrive, after which its request ends with 408."""
    characters_per_token: Count = 8
    """Characters of the texts of a request, at most, for each position of the model. Longer texts are refused
    before they are encoded. English has 4 to 5."""
    max_tokens: Count = 1024
    """Length of an answer, at most; a request that asks for more gets this."""
    default_max_tokens: Count = 128
    """Length of an answer if the request sets none."""
    choices: Count = 4
    """Answers to a prompt (``n``), at most."""
    prompts: Count = 32
    """Prompts of a request to ``/v1/completions``, at most."""
    stops: Count = 32
    """Stop texts of a request, at most."""
    messages: Count = 64
    """Messages of a conversation, at most."""
    tools: Count = 128
    """Tools of a request, at most."""
    deadline_ms: Count = 300_000
    """A request that takes longer ends with 504. A request may set less."""

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        if self.default_max_tokens > self.max_tokens:
            raise ValueError("default_max_tokens is above max_tokens; lower it")
        return self


class RefreshSettings(Section):
    """Bounds of the refresh interval, and the presets that ``effort`` names."""

    min: Count = 1
    """Smallest refresh interval that a request gets."""
    max: Count = 64
    """Largest refresh interval that a request gets."""
    default: Count = 1
    """Refresh interval of a request that sets none; 1 is exact."""
    busy: Annotated[float, Field(gt=0)] = 2.0
    """Running and waiting requests per row at which a request with a range gets its largest interval."""
    presets: dict[Literal["fast", "balanced", "accurate"], DecodingParams] = {}
    """Params of each ``effort``."""

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is above max; swap them")
        if not self.min <= self.default <= self.max:
            raise ValueError(f"default: {self.default} is not between min and max; set it to one of them")
        for name, preset in self.presets.items():
            if outside := [r for r in preset.intervals if not self.min <= r <= self.max]:
                bounds = f"{self.min} to {self.max}"
                raise ValueError(
                    f"presets.{name}: refresh_interval {outside[0]} is not within {bounds}; change either"
                )
            if len(rules := given_rule_parameters(preset.given())) > 1:
                raise ValueError(
                    f"presets.{name}: {' and '.join(rules)} exclude each other; keep one of them"
                )
        return self


class DecodingSettings(Section):
    """Defaults of decoding, which a request may override."""

    block_length: Count | None = None
    """Tokens of a block; null: the answer is one block. A canvas is rounded up to whole blocks."""
    tokens_per_step: Count = 1
    """Tokens that a step unmasks."""
    cache: Cache = Cache.prefix
    """Keys and values that steps between refreshes reuse: none, prefix or dual."""
    value_tokens: Count = 16
    """Tokens for a text in structured output whose schema sets no ``maxLength``."""
    all_properties: bool = False
    """Whether structured output has all properties that a schema lists; otherwise the model chooses among the
    optional ones. A request may override it."""


class ReplicaSettings(Section):
    """Engine replicas: their number, their resources, and what each holds."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Fewest replicas; 0 is allowed."""
    max_replicas: Count = 1
    """Most replicas."""
    cpus: Annotated[float, Field(ge=0)] = 1.0
    """CPU cores that Ray reserves for a replica."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of a replica."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights; auto: the fastest on the device."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of torch on a CPU; 0: torch decides."""
    kv_bytes: Count = 256 * 2**20
    """Memory for the KV cache, for embeddings of running prompts, and for CUDA graphs."""
    max_rows: Count = 16
    """Answers that are decoded together, at most."""
    max_waiting: Annotated[int, Field(ge=0)] = 32
    """Answers that wait in a replica for a row, at most; further ones wait in the ingress."""
    max_queued: Annotated[int, Field(ge=0)] = 64
    """Requests that wait in an ingress replica for an engine replica, at most; further ones get 503."""
    refresh_positions: Count = 8192
    """Positions that the refreshes of one step forward together, at most."""
    cuda_graphs: bool | None = None
    """Whether cached steps run as CUDA graphs, captured when a replica starts; null: only on a GPU."""
    graph_bytes: Count = 2**30
    """Part of ``kv_bytes`` for CUDA graphs, at most; never more than a quarter."""
    step_seconds: Seconds = 120.0
    """A step that takes longer counts as hanging, and Ray Serve replaces the replica."""
    drain_seconds: Seconds = 60.0
    """Time that a stopping replica has to finish its requests."""


class ScalingSettings(Section):
    """When engine replicas are added and removed; see ``serve/ops/autoscaling.py``."""

    external: bool = False
    """Whether a program outside of Ray sets the number of engine replicas through Serve's external scaler,
    instead of the rules below; see ``serve/ops/follow_scale.py``."""
    upper: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of rows in use above which replicas are added."""
    lower: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of rows in use below which a replica is removed, if the others then stay below ``upper``."""
    queue_seconds: Seconds = 2.0
    """Age of the oldest waiting request above which a replica is added."""
    up_seconds: Annotated[float, Field(ge=0)] = 2.0
    """How long the condition must hold before replicas are added."""
    down_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long the condition must hold before a replica is removed."""


class IngressSettings(Section):
    """Ingress replicas, which check requests, read images and write answers out."""

    replicas: Count = 1
    """Number of replicas."""
    cpus: Annotated[float, Field(ge=0)] = 0.5
    """CPU cores that Ray reserves for a replica."""
    held_bytes: Count = 2**29
    """Memory for bodies, each from its first byte until its request is prepared; a request whose body does
    not fit gets 503. Parsing a body briefly takes about four times its size."""
    playground: bool = True
    """Whether ``/`` serves the playground."""
    cors_origins: list[Annotated[str, Field(pattern=r"^(\*|https?://[^/]+)$")]] = []
    """Origins of web pages that may call the API from a browser (CORS), as in https://app.example; ``*``
    allows all. Empty: only pages of this server may."""


class ServeSettings(Section):
    """All arguments of ``serve.app:build``."""

    model: str
    """Folder or hub id of a LLaDA-V checkpoint with its tokenizer."""
    name: str = "llada-v"
    """Name of the model in the API."""
    adapters: dict[str, str] = {}
    """LoRA adapters of the model: a folder, URI or hub id by the name that requests give as their model."""
    auth: Annotated[Auth, BeforeValidator(lambda value: "off" if value is False else value)] = Auth.keys
    """Who may use the server: keys, the holders of API keys; off, anyone on this machine. YAML reads ``off``
    without quotes as false, which is accepted, too."""
    keys: list[KeySettings] = []
    """API keys with their limits; python -m serve.keys makes entries."""
    keys_file: str | None = None
    """YAML file with more keys, such as a mounted Kubernetes Secret; read when an ingress replica starts."""
    limits_storage: Annotated[str, Field(pattern=r"^async\+[a-z+]+://")] = "async+memory://"
    """Storage of rate counts, as a URI of the ``limits`` package. In memory, each ingress replica counts for
    itself; ``async+redis://HOST:PORT`` (needs the package coredis) counts for all."""
    media: MediaSettings = MediaSettings()
    fetch: FetchSettings = FetchSettings()
    limits: LimitSettings = LimitSettings()
    dial: RefreshSettings = RefreshSettings()
    aliases: dict[str, DecodingParams] = {}
    """More names of the model, each with decoding params for its requests: for clients that choose a
    model but send no params of diffusion. Fields of a request override them."""
    decoding: DecodingSettings = DecodingSettings()
    engine: ReplicaSettings = ReplicaSettings()
    scaling: ScalingSettings = ScalingSettings()
    ingress: IngressSettings = IngressSettings()

    @model_validator(mode="wrap")
    @classmethod
    def _merge_file(cls, values: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        """Merge the file that ``config`` names: Ray Serve validates the arguments of the builder itself."""
        if not isinstance(values, Mapping) or "config" not in values:
            return check(values)
        values = merged(values)
        try:
            return check(values)
        except ValidationError as error:
            raise UserError(settings_error(error, cls, values)) from None

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        has_keys = bool(self.keys or self.keys_file)
        if self.auth is Auth.keys and not has_keys:
            raise ValueError("auth is keys and there are none; add keys, or set auth=off on a loopback host")
        if self.auth is Auth.off and has_keys:
            raise ValueError("auth is off and keys are given; remove one of them")
        if conflict := key_conflict(self.keys):
            raise ValueError(f"keys: {conflict}")
        return self

    @property
    def models(self) -> list[str]:
        """The names that a request may give as its model."""
        return [self.name, *self.adapters, *self.aliases]

    def adapter_of(self, model: str) -> str | None:
        """The adapter that a request gives as its model; None for the model itself and its aliases."""
        return model if model in self.adapters else None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for section, names in (("adapters", self.adapters), ("aliases", self.aliases)):
            if self.name in names:
                raise ValueError(
                    f"{section}: {self.name} is the name of the model itself; choose another name"
                )
        if both := self.adapters.keys() & self.aliases:
            raise ValueError(f"aliases: {min(both)} is the name of an adapter; choose another name")
        return self

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        if self.ingress.held_bytes < self.limits.body_bytes:
            raise ValueError("ingress: held_bytes is below limits.body_bytes; raise it")
        if self.engine.min_replicas > self.engine.max_replicas:
            raise ValueError("engine: min_replicas is above max_replicas; swap them")
        if self.engine.cuda_graphs and not self.engine.gpus:
            raise ValueError("engine: cuda_graphs is on and gpus is 0; set gpus, or leave cuda_graphs out")
        if self.auth is Auth.off and "*" in self.ingress.cors_origins:
            raise ValueError("ingress: cors_origins is * and auth is off, so any page may ask; list origins")
        if self.scaling.external and self.engine.min_replicas == 0:
            raise ValueError("engine: min_replicas is 0, and scaling.external begins with it; set it to 1")
        if self.scaling.lower >= self.scaling.upper:
            raise ValueError("scaling: lower is not below upper; leave a gap, or replicas come and go")
        return self


Settings = TypeVar("Settings", bound=ServeSettings)


def load(arguments: Mapping[str, Any], conf: Path = CONF) -> ServeSettings:
    """The settings of some arguments; raises ``UserError`` in one line for settings that cannot work."""
    return checked(ServeSettings, merged(arguments, conf))


def checked(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The settings with some values; raises ``UserError`` in one line for settings that cannot work."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(settings_error(error, kind, values)) from None
