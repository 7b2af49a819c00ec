"""Decoding settings of a request by the model's kind of prediction: by precedence, with canvas and interval.

Fields of a request override its ``effort``, which overrides the alias in its ``model``, which overrides the
server's defaults. Unmasking rules exclude each other, so a rule replaces all rules that it overrides. A model
that predicts the next token has no settings of denoising.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lladav.config.schema import ModelConfig, Prediction
from lladav.decoding.params import refusal, refused_for_next_token
from lladav.decoding.structured_options import with_structure
from lladav.decoding.unmasking import RULES, given_rule_parameters, rule_parameters
from lladav.structured.compiling import Structure
from serve.api.planning.request_limits import RequestLimits
from serve.api.planning.structures import RequestedStructure
from serve.api.schemas.completion_requests import CompletionRequest, DecodingBody
from serve.decoding_params import IntervalRange
from serve.engine.refresh_policy import RefreshRange
from serve.errors import ApiError
from serve.settings import KeySettings, RefreshSettings, ServeSettings

DENOISING_FIELDS = ("reveal", "effort", "suffix")
"""Fields of denoising besides decoding params and structures."""


@dataclass(frozen=True)
class DecodingPlan:
    """Options of a request and its range of refresh intervals; None for a model without refresh interval."""

    settings: dict[str, Any]
    refresh: RefreshRange | None


class DecodingPlanner(Protocol):
    """Plans the decoding of requests for models of one kind."""

    def check(self, body: DecodingBody, structure: RequestedStructure | None) -> None:
        """Raise ``ApiError`` for fields that the model does not have."""
        ...

    def plan(
        self, body: DecodingBody, key: KeySettings | None, max_tokens: int, structure: Structure | None
    ) -> DecodingPlan:
        """The settings of an answer of ``max_tokens`` tokens or of a structure; raises ``ApiError``."""
        ...


def decoding_planner(model: ModelConfig, settings: ServeSettings, limits: RequestLimits) -> DecodingPlanner:
    """The planner for a model."""
    if model.prediction is Prediction.next_token:
        return NextTokenPlanner(settings)
    return DenoisingPlanner(model, settings, limits)


class NextTokenPlanner:
    """Plans for models that predict the next token."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings

    def check(self, body: DecodingBody, structure: RequestedStructure | None) -> None:
        fields = [name for name in DENOISING_FIELDS if getattr(body, name, None)]
        if structure is not None:
            fields.append(structure.top_field)
        if refused := refused_for_next_token([*self._params(body), *fields]):
            raise ApiError(400, refusal(refused), param=refused[0])

    def plan(
        self,
        body: DecodingBody,
        key: KeySettings | None,  # noqa: ARG002
        max_tokens: int,
        structure: Structure | None,  # noqa: ARG002
    ) -> DecodingPlan:
        return DecodingPlan({**self._params(body), "max_tokens": max_tokens}, refresh=None)

    def _params(self, body: DecodingBody) -> dict[str, Any]:
        return {**alias_params(body, self._settings), **body.given()}


class DenoisingPlanner:
    """Plans for masked-diffusion models."""

    def __init__(self, model: ModelConfig, settings: ServeSettings, limits: RequestLimits) -> None:
        self._allow_eos, self._settings, self._limits = model.allow_eos, settings, limits

    def check(self, body: DecodingBody, structure: RequestedStructure | None) -> None:
        if structure is not None and isinstance(body, CompletionRequest) and body.suffix:
            message = "suffix: nothing follows an answer that has a structure; leave it out"
            raise ApiError(400, message, param="suffix")

    def plan(
        self, body: DecodingBody, key: KeySettings | None, max_tokens: int, structure: Structure | None
    ) -> DecodingPlan:
        params = self._params(body)
        if structure is None:
            params |= self._canvas(params.get("block_length"), max_tokens, key)
        else:
            params = with_structure(params, structure)
        requested = params.pop("refresh_interval", None)
        refresh = refresh_range(requested, body.deadline_ms is not None, self._settings.dial)
        return DecodingPlan({**params, "refresh_interval": refresh.max}, refresh)

    def _params(self, body: DecodingBody) -> dict[str, Any]:
        """Decoding params by precedence, with parameters of at most one unmasking rule."""
        own, defaults = body.given(), self._settings.decoding
        preset = self._preset(body)
        rules = given_rule_parameters(own) or _rule(body.reveal, preset)
        params = {**preset, **own}
        if body.reveal is not None:
            _check_rule(body.reveal, rules)
        if not rules and defaults.tokens_per_step > 1:
            rules = {"tokens_per_step": defaults.tokens_per_step}
        own = {"cache": defaults.cache, "allow_eos": self._allow_eos}
        return {**own, **_without_rules(params), **rules}

    def _preset(self, body: DecodingBody) -> dict[str, Any]:
        """The params of the alias and of the effort, which overrides the alias."""
        params, effort = alias_params(body, self._settings), self._effort(body)
        if given_rule_parameters(effort):
            params = _without_rules(params)
        return {**params, **effort}

    def _effort(self, body: DecodingBody) -> dict[str, Any]:
        if body.effort is None:
            return {}
        preset = self._settings.dial.presets.get(body.effort.value)
        if preset is None:
            message = f"effort: this server has no {body.effort.value!r}; set refresh_interval"
            raise ApiError(400, message, param="effort")
        return preset.given()

    def _canvas(self, block: int | None, max_tokens: int, key: KeySettings | None) -> dict[str, int]:
        """Canvas and block length: ``max_tokens`` rounded up to whole blocks, within the limit."""
        if block is None:
            block = min(self._settings.decoding.block_length or max_tokens, max_tokens)
        canvas, limit = -(-max_tokens // block) * block, self._limits.limit("max_tokens", key)
        if canvas > max_tokens and canvas > limit:
            canvas = block * (limit // block) or max_tokens
        return {"max_tokens": canvas, "block_length": min(block, canvas)}


def alias_params(body: DecodingBody, settings: ServeSettings) -> dict[str, Any]:
    """The params of the alias that a request names as its model."""
    alias = settings.aliases.get(body.model)
    return {} if alias is None else alias.given()


def _without_rules(params: Mapping[str, Any]) -> dict[str, Any]:
    """The params without those of unmasking rules."""
    return {name: value for name, value in params.items() if name not in rule_parameters()}


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


def refresh_range(
    requested: int | IntervalRange | None, has_deadline: bool, bounds: RefreshSettings
) -> RefreshRange:
    """The intervals that a request may get: those that it permits, within the server's bounds.

    A request that permits none by itself gets the default interval. Its deadline may raise it, load may not.
    """
    if requested is None:
        return RefreshRange(
            bounds.default, bounds.max if has_deadline else bounds.default, follows_load=False
        )
    low, high = (requested, requested) if isinstance(requested, int) else (requested.min, requested.max)
    allowed = RefreshRange(max(low, bounds.min), min(high, bounds.max))
    if allowed.min > allowed.max:
        message = f"refresh_interval: this server permits {bounds.min} to {bounds.max}; choose within"
        raise ApiError(400, message, param="refresh_interval")
    return allowed
