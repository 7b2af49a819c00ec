"""From a request to a job: knobs, presets, the operator's bounds and defaults, checked before any work.

What a request gives wins over its ``effort``, and that over the server's defaults. Rules of revealing exclude
each other, so one that wins takes the place of all others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lladav.config.schema import ModelConfig
from lladav.decoding.params import DecodingOptions
from lladav.decoding.prompt_encoder import prompt_length
from lladav.decoding.unmasking import RULES, given_rule_parameters, rule_parameters
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry
from lladav.inputs.types import Sample, Visual
from serve.api.prompts import characters, check_order
from serve.api.schemas import ChatRequest, CompletionRequest, DecodingBody, SchemaFormat, StreamMode
from serve.decoding_params import IntervalRange
from serve.engine.messages import DeltaMode, EngineRequest
from serve.engine.refresh_policy import RefreshRange
from serve.errors import ApiError
from serve.settings import RefreshSettings, ServeSettings
from serve.structured import JsonTemplate

SEEDS = 2**62


@dataclass(frozen=True)
class PlannedRequest:
    """A job, and what its answers are made into."""

    job: EngineRequest
    max_tokens: int
    """Where an answer is cut off; the canvas may be longer, as blocks are filled whole."""
    template: JsonTemplate | None
    warnings: list[str]
    """Settings that change nothing, a line each."""


class RequestPlanner:
    """Makes jobs of requests for a model."""

    def __init__(
        self, settings: ServeSettings, tokenizer: ChatTokenizer, model: ModelConfig, geometry: ViewGeometry
    ) -> None:
        self._settings, self._tokenizer, self._geometry = settings, tokenizer, geometry
        self._longest = model.language.max_positions
        self._characters = settings.limits.characters_per_token * self._longest

    def check(self, request: DecodingBody) -> None:
        """Raise ``ApiError`` for what can be refused before its prompt is encoded."""
        limits, settings = self._settings.limits, self._settings
        if request.model != settings.name:
            message = f"model: there is no {request.model!r} here; use {settings.name!r}"
            raise ApiError(404, message, code="model_not_found", param="model")
        _at_most(request.choices, limits.choices, "n", "answers")
        _at_most(len(request.stops), limits.stops, "stop", "texts")
        if isinstance(request, ChatRequest):
            _at_most(len(request.messages), limits.messages, "messages", "messages")
            check_order(request.messages)
        self._room(request)

    def _room(self, request: DecodingBody) -> int:
        """Characters that the texts of a request leave; raises ``ApiError`` where they are too long.

        What is too long is not encoded: the time that takes grows with the text.
        """
        texts, param = _texts(request)
        if texts > self._characters:
            message = (
                f"{param}: {texts} characters are more than the {self._characters} that are allowed for the "
                f"model's {self._longest} tokens; shorten the text"
            )
            raise ApiError(400, message, code="context_length_exceeded", param=param)
        return self._characters - texts

    def deadline(self, request: DecodingBody, arrived: float) -> float:
        """When a request that arrived at a ``time.time()`` ends unanswered."""
        limit = self._settings.limits.deadline_ms
        return arrived + min(request.deadline_ms or limit, limit) / 1000

    def plan(self, request: DecodingBody, prompt: Sample, name: str, arrived: float) -> PlannedRequest:
        """The job of a request that arrived at a ``time.time()``; raises ``ApiError`` if it cannot work.

        Images may still have to be read, which is work: whatever can be wrong besides them is found here.
        """
        knobs = self._knobs(request)
        interval, cut = knobs.pop("refresh_interval", None), self._max_tokens(request)
        template = self._template(request, cut)
        answer = self._canvas(knobs, cut) if template is None else self._laid_out(knobs, template, request)
        if isinstance(request, CompletionRequest) and request.suffix:
            answer["suffix"] = tuple(self._tokenizer.encode(request.suffix))
        if request.ignore_eos and template is None:
            ids = self._tokenizer.ids
            answer |= {"stop": (), "forbidden": (ids.eot, *DecodingOptions.for_chat(ids).forbidden)}
        answer["seed"] = random.randrange(SEEDS) if request.seed is None else request.seed
        job = EngineRequest(
            name,
            prompt,
            prompt_length(prompt, self._geometry),
            answer,
            _dial(interval, request.deadline_ms is not None, self._settings.dial),
            self.deadline(request, arrived),
            request.choices,
            tuple(request.stops),
            _watch(request),
        )
        return PlannedRequest(job, template.length if template else cut, template, self._checked(job))

    def with_visuals(self, plan: PlannedRequest, visuals: Sequence[Visual]) -> PlannedRequest:
        """The plan with the images of its prompt; raises ``ApiError`` where they make it too long."""
        prompt = replace(plan.job.prompt, visuals=list(visuals))
        job = replace(plan.job, prompt=prompt, prompt_tokens=prompt_length(prompt, self._geometry))
        self._check_length(job, job.options(self._tokenizer, job.dial.max))
        return replace(plan, job=job)

    def _knobs(self, request: DecodingBody) -> dict[str, Any]:
        """Decoding settings by precedence, with parameters of at most one unmasking rule."""
        own, defaults = request.given(), self._settings.decoding
        preset = self._preset(request)
        rules = given_rule_parameters(own) or _rule(request.reveal, preset)
        knobs = {**preset, **own}
        if request.reveal is not None:
            _check_rule(request.reveal, rules)
        if not rules and defaults.tokens_per_step > 1:
            rules = {"tokens_per_step": defaults.tokens_per_step}
        kept = {name: value for name, value in knobs.items() if name not in rule_parameters()}
        return {"cache": defaults.cache, **kept, **rules}

    def _preset(self, request: DecodingBody) -> dict[str, Any]:
        if request.effort is None:
            return {}
        preset = self._settings.dial.presets.get(request.effort.value)
        if preset is None:
            message = f"effort: this server has no {request.effort.value!r}; set refresh_interval"
            raise ApiError(400, message, param="effort")
        return preset.given()

    def _max_tokens(self, request: DecodingBody) -> int:
        given = request.max_tokens
        name = "max_tokens"
        if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
            if given is not None and given != request.max_completion_tokens:
                message = "max_tokens and max_completion_tokens differ; keep one of them"
                raise ApiError(400, message, param=name)
            given, name = request.max_completion_tokens, "max_completion_tokens"
        limits = self._settings.limits
        if given is None:
            return limits.max_tokens if _schema(request) else limits.default_max_tokens
        _at_most(given, limits.max_tokens, name, "tokens")
        return given

    def _canvas(self, knobs: dict[str, Any], max_tokens: int) -> dict[str, Any]:
        """Whole blocks, of the length that was asked for, or of the server's where a canvas has as many."""
        block = knobs.pop("block_length", None)
        if block is None:
            block = min(self._settings.decoding.block_length or max_tokens, max_tokens)
        canvas = -(-max_tokens // block) * block
        if canvas - max_tokens and canvas > self._settings.limits.max_tokens:
            canvas = block * (self._settings.limits.max_tokens // block) or max_tokens
        return {**knobs, "max_tokens": canvas, "block_length": min(block, canvas)}

    def _template(self, request: DecodingBody, max_tokens: int) -> JsonTemplate | None:
        schema = _schema(request)
        if schema is None:
            return None
        if request.stops:
            raise ApiError(400, "stop: JSON of a schema ends by itself; leave it out", param="stop")
        places, room = self._settings.decoding.value_tokens, self._room(request)
        return JsonTemplate(schema, self._tokenizer, places, max_tokens, room)

    def _laid_out(
        self, knobs: dict[str, Any], template: JsonTemplate, request: DecodingBody
    ) -> dict[str, Any]:
        """The template as one block, unless the request wants others: values are best seen together."""
        length = template.length
        block = min(request.block_length or length, length)
        knobs.pop("block_length", None)
        canvas = -(-length // block) * block
        rest = dict.fromkeys(range(length, canvas), self._tokenizer.ids.eot)
        return {
            **knobs,
            "max_tokens": canvas,
            "block_length": block,
            "infill": template.infill | rest,
            "allowed": template.allowed,
            "stop": (),
        }

    def _checked(self, job: EngineRequest) -> list[str]:
        """Warnings about the job's options; raises ``ApiError`` where they do not fit together."""
        try:
            options = job.options(self._tokenizer, job.dial.max)
        except UserError as error:
            raise ApiError(400, str(error).removeprefix("decoding: ")) from None
        self._check_length(job, options)
        warnings = replace(options, refresh_interval=job.dial.min).warnings
        if job.choices > 1 and options.temperature == 0:
            warnings.append("n above 1 at temperature 0 gives the same answer each time")
        return warnings

    def _check_length(self, job: EngineRequest, options: DecodingOptions) -> None:
        if job.prompt_tokens + options.answer_positions > self._longest:
            message = (
                f"the prompt's {job.prompt_tokens} tokens and {options.answer_positions} of the answer are "
                f"more than the model's {self._longest}; shorten the prompt or max_tokens"
            )
            raise ApiError(400, message, code="context_length_exceeded", param="messages")


def _rule(reveal: str | None, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's unmasking rule, or the rule named by ``reveal`` with its default."""
    of_preset = given_rule_parameters(preset)
    if reveal is None or of_preset.keys() & RULES[reveal].parameters.keys():
        return of_preset
    rule = RULES[reveal]
    return {} if rule.default is None else {next(iter(rule.parameters)): rule.default}


def _check_rule(reveal: str, rules: Mapping[str, Any]) -> None:
    if other := sorted(rules.keys() - RULES[reveal].parameters.keys()):
        message = f"reveal: {reveal} and {', '.join(other)} exclude each other; keep one of them"
        raise ApiError(400, message, param="reveal")


def _texts(request: DecodingBody) -> tuple[int, str]:
    """Characters of what is written around an answer, and the field that it is in."""
    if isinstance(request, CompletionRequest):
        return len(request.prompt) + len(request.suffix or ""), "prompt"
    assert isinstance(request, ChatRequest)
    return characters(request.messages), "messages"


def _schema(request: DecodingBody) -> dict[str, Any] | None:
    if isinstance(request, ChatRequest) and isinstance(request.response_format, SchemaFormat):
        return request.response_format.json_schema.schema_
    return None


def _dial(wanted: int | IntervalRange | None, hurried: bool, bounds: RefreshSettings) -> RefreshRange:
    """The intervals that a request may get: what it permits of what the operator does.

    A deadline alone keeps the default interval unless the answer would be late; load does not raise it.
    """
    if wanted is None:
        highest = bounds.max if hurried else bounds.default
        return RefreshRange(bounds.default, highest, follows_load=False)
    low, high = (wanted, wanted) if isinstance(wanted, int) else (wanted.min, wanted.max)
    dial = RefreshRange(max(low, bounds.min), min(high, bounds.max))
    if dial.min > dial.max:
        message = f"refresh_interval: this server permits {bounds.min} to {bounds.max}; choose within"
        raise ApiError(400, message, param="refresh_interval")
    return dial


def _watch(request: DecodingBody) -> DeltaMode:
    if not request.stream:
        return DeltaMode.nothing
    return DeltaMode.denoise if request.stream_mode is StreamMode.denoise else DeltaMode.committed


def _at_most(value: int, limit: int, param: str, what: str) -> None:
    if value > limit:
        raise ApiError(400, f"{param}: at most {limit} {what} here, not {value}; ask for less", param=param)
