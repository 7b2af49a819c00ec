"""Every setting of the serving side: typed, closed to misspelt keys, read from ``conf/serve/*.yaml``.

``serve run serve.app:build config=local model=FOLDER engine.max_rows=8`` and a Serve config file's ``args``
are read alike: the named file of ``conf/serve``, with what else is given on top, as nested or dotted keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from lladav.config.introspection import choices_hint
from lladav.config.loader import CONF, group_choices, read_yaml
from lladav.decoding.params import Cache
from lladav.decoding.unmasking import given_rule_parameters
from lladav.errors import UserError
from serve.decoding_params import DecodingParams
from serve.validation_errors import settings_error

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
DEFAULT_CONFIG = "local"


class Section(BaseModel):
    """A group of settings; unknown keys are refused, text under a field is its documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


class Auth(StrEnum):
    """Who may ask: holders of a key, or, from this machine alone, everybody."""

    keys = "keys"
    off = "off"


class KeySettings(Section):
    """An API key, kept as its hash; ``python -m serve.keys`` makes one."""

    name: str
    """Whose key it is; appears in logs and metrics in place of the key."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key, in hexadecimal."""
    requests_per_minute: Count = 600
    concurrency: Count = 64
    """Requests of this key that may run at a time, at each ingress replica."""


def key_conflict(keys: Sequence[KeySettings]) -> str | None:
    """Why keys cannot stand beside each other."""
    if len({key.name for key in keys}) < len(keys):
        return "names differ from each other; rename one"
    if len({key.sha256 for key in keys}) < len(keys):
        return "two entries are of the same key; make another one"
    return None


class MediaSettings(Section):
    """Limits of images, checked before anything is decoded."""

    images: Count = 8
    """Images of a request."""
    image_bytes: Count = 10 * 2**20
    """Of one image, as it is encoded."""
    pixels: Count = 40_000_000
    """Of one image, width times height."""
    seconds: Seconds = 10.0
    """For decoding and tiling one image; what takes longer is killed."""
    workers: Count = 2
    """Processes that decode images, for each ingress replica."""


class FetchSettings(Section):
    """Fetching images by https URL; off unless ``hosts`` names some."""

    hosts: list[str] = []
    """Hosts that may be fetched from; no wildcards."""
    seconds: Seconds = 5.0
    """For one fetch, from the name's resolution to the last byte."""


class LimitSettings(Section):
    """What one request may ask for."""

    body_bytes: Count = 32 * 2**20
    """Of a request's body."""
    text_bytes: Count = 2**20
    """Of a request's body besides its images."""
    body_seconds: Seconds = 30.0
    """For the whole body to arrive; a request whose body is not complete by then ends with 408."""
    characters_per_token: Count = 8
    """Texts of a request have at most this many characters for each position of the model; longer ones are
    refused before they are encoded. English has 4 to 5."""
    max_tokens: Count = 1024
    """Canvas of an answer, at most."""
    default_max_tokens: Count = 128
    """Canvas where a request names none."""
    choices: Count = 4
    """Largest ``n``."""
    stops: Count = 4
    """Stop texts of a request."""
    messages: Count = 64
    deadline_ms: Count = 300_000
    """A request that takes longer ends with 504; a request may ask for less."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.default_max_tokens > self.max_tokens:
            raise ValueError("default_max_tokens is above max_tokens; lower it")
        return self


class RefreshSettings(Section):
    """Bounds of the refresh interval, and the presets called ``effort``."""

    min: Count = 1
    max: Count = 64
    """Smallest and largest refresh interval that a request gets."""
    default: Count = 1
    """Where a request says nothing; 1 is exact."""
    busy: Annotated[float, Field(gt=0)] = 2.0
    """Requests per row (running and waiting) at which a range is answered with its largest interval."""
    presets: dict[Literal["fast", "balanced", "accurate"], DecodingParams] = {}
    """What each ``effort`` stands for."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
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
    """Decoding where a request does not say otherwise."""

    block_length: Count | None = None
    """Blocks of an answer; none: one block. A canvas is rounded up to whole blocks."""
    tokens_per_step: Count = 1
    cache: Cache = Cache.prefix
    value_tokens: Count = 16
    """Places of a text in structured output whose schema names no ``maxLength``."""


class ReplicaSettings(Section):
    """Engine replicas: their number, their place, and what each holds."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Count = 1
    cpus: Annotated[float, Field(ge=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights; auto: the fastest for the device."""
    threads: Annotated[int, Field(ge=0)] = 0
    """torch threads on a CPU; 0: torch decides."""
    kv_bytes: Count = 256 * 2**20
    """Memory of keys and values, of the embeddings of running prompts, and of CUDA graphs."""
    max_rows: Count = 16
    """Answers that are decoded together."""
    max_waiting: Annotated[int, Field(ge=0)] = 32
    """Answers that wait at a replica for a row; further ones wait at the ingress."""
    max_queued: Annotated[int, Field(ge=0)] = 64
    """Requests that wait at an ingress replica for an engine replica; further ones get 503."""
    refresh_positions: Count = 8192
    """Positions that the refreshes of one step may forward together."""
    cuda_graphs: bool | None = None
    """Whether cached steps are CUDA graphs, captured when a replica starts; none: on a GPU."""
    graph_bytes: Count = 2**30
    """Of ``kv_bytes``, for CUDA graphs: at most so many, and at most a quarter of it."""
    step_seconds: Seconds = 120.0
    """A step that takes longer counts as hanging: the replica is replaced."""
    drain_seconds: Seconds = 60.0
    """How long a replica that is to stop may finish what it runs."""


class ScalingSettings(Section):
    """When engine replicas are added and taken away; see ``serve/ops/autoscaling.py``."""

    external: bool = False
    """Whether something outside Ray sets the number of engine replicas, by Serve's external scaler, and not
    the rules below; see ``serve/ops/follow_scale.py``."""
    upper: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of rows in use above which replicas are added."""
    lower: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share below which one is taken away, if the rest then stays below ``upper``."""
    queue_seconds: Seconds = 2.0
    """Age of the oldest waiting request above which a replica is added."""
    up_seconds: Annotated[float, Field(ge=0)] = 2.0
    """How long the need must last before replicas are added."""
    down_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long they must be spare before one is taken away."""


class IngressSettings(Section):
    """Replicas that check requests, read images and write answers out."""

    replicas: Count = 1
    cpus: Annotated[float, Field(ge=0)] = 0.5
    held_bytes: Count = 2**29
    """Of bodies that are in memory at a time, from their first byte until they are planned; a request whose
    body has no room gets 503. Reading a body takes about four times its size for a moment."""
    playground: bool = True
    """Whether ``/`` shows the playground."""


class ServeSettings(Section):
    """Everything ``serve.app:build`` takes."""

    model: str
    """Folder of a LLaDA-V checkpoint with its tokenizer."""
    name: str = "llada-v"
    """What clients call the model."""
    auth: Annotated[Auth, BeforeValidator(lambda given: "off" if given is False else given)] = Auth.keys
    """YAML reads ``off`` without quotes as false."""
    keys: list[KeySettings] = []
    keys_file: str | None = None
    """YAML file of further keys, e.g. a mounted Kubernetes Secret; read when an ingress replica starts."""
    limits_storage: Annotated[str, Field(pattern=r"^async\+[a-z+]+://")] = "async+memory://"
    """Where rates are counted, as the ``limits`` package writes it: in memory each ingress replica counts for
    itself, ``async+redis://HOST:PORT`` (needs the package coredis) counts for all."""
    media: MediaSettings = MediaSettings()
    fetch: FetchSettings = FetchSettings()
    limits: LimitSettings = LimitSettings()
    dial: RefreshSettings = RefreshSettings()
    decoding: DecodingSettings = DecodingSettings()
    engine: ReplicaSettings = ReplicaSettings()
    scaling: ScalingSettings = ScalingSettings()
    ingress: IngressSettings = IngressSettings()

    @model_validator(mode="wrap")
    @classmethod
    def _on_top_of_its_file(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        """Where a file is named, as in what Ray Serve hands to our builder."""
        if not isinstance(given, Mapping) or "config" not in given:
            return check(given)
        values = merged(given)
        try:
            return check(values)
        except ValidationError as error:
            raise UserError(settings_error(error, cls, values)) from None

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        given = bool(self.keys or self.keys_file)
        if self.auth is Auth.keys and not given:
            raise ValueError("auth is keys and there are none; add keys, or set auth=off on a loopback host")
        if self.auth is Auth.off and given:
            raise ValueError("auth is off and keys are given; remove one of them")
        if why := key_conflict(self.keys):
            raise ValueError(f"keys: {why}")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.ingress.held_bytes < self.limits.body_bytes:
            raise ValueError("ingress: held_bytes is below limits.body_bytes; raise it")
        if self.engine.min_replicas > self.engine.max_replicas:
            raise ValueError("engine: min_replicas is above max_replicas; swap them")
        if self.engine.cuda_graphs and not self.engine.gpus:
            raise ValueError("engine: cuda_graphs is on and gpus is 0; set gpus, or leave cuda_graphs out")
        if self.scaling.external and self.engine.min_replicas == 0:
            raise ValueError("engine: min_replicas is 0, and scaling.external begins with it; set it to 1")
        if self.scaling.lower >= self.scaling.upper:
            raise ValueError("scaling: lower is not below upper; leave a gap, or replicas come and go")
        return self


def load(given: Mapping[str, Any], conf: Path = CONF) -> ServeSettings:
    """The settings that arguments stand for; raises ``UserError`` in one line for any that cannot work."""
    values = merged(given, conf)
    try:
        return ServeSettings.model_validate(values)
    except ValidationError as error:
        raise UserError(settings_error(error, ServeSettings, values)) from None


def merged(given: Mapping[str, Any], conf: Path = CONF) -> dict[str, Any]:
    """The named file of ``conf/serve`` with everything else on top; dotted keys are paths.

    Raises ``UserError`` for a file that does not exist, and for what is no setting.
    """
    name, rest = str(given.get("config", DEFAULT_CONFIG)), {k: v for k, v in given.items() if k != "config"}
    known = group_choices("serve", conf)
    if name not in known:
        raise UserError(f"config={name}: no such file in conf/serve{choices_hint(name, known)}")
    tree = OmegaConf.create(read_yaml(conf / "serve" / f"{name}.yaml"))
    for key, value in rest.items():
        _set(tree, str(key), value)
    values = OmegaConf.to_container(tree)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _set(tree: DictConfig, key: str, value: Any) -> None:
    if not all(key.split(".")):
        raise UserError(f"{key!r}: not a setting; write section.key, as in engine.max_rows")
    try:
        OmegaConf.update(tree, key, value, merge=True, force_add=True)
    except GrammarParseError:
        raise UserError(f"{key}: ${{ begins something that does not end; close it or leave it out") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: cannot be set ({str(error).splitlines()[0]})") from None
