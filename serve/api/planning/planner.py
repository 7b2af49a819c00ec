"""From a request to an engine request: settings, defaults and bounds, checked before any work."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from lladav.config.schema import ModelConfig
from lladav.decoding.prompts import prompt_length
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry
from lladav.inputs.samples import Sample, Visual
from lladav.inputs.tool_text import CALL_MARK
from lladav.structured.compiling import StructureKind
from lladav.structured.outline import Outline
from serve.api.planning.engine_options import OptionsPlanner
from serve.api.planning.prompts import (
    chat_prompt,
    check_messages,
    media_references,
    text_prompt,
    token_prompt,
)
from serve.api.planning.request_limits import RequestLimits
from serve.api.planning.request_warnings import request_warnings
from serve.api.planning.structures import (
    PlannedStructure,
    RequestedStructure,
    StructurePlanner,
    requested_structure,
    structure_warnings,
)
from serve.api.planning.tools import callable_tools
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest, DecodingBody, StreamOptions
from serve.engine.messages import EngineRequest, StreamMode
from serve.errors import ApiError
from serve.settings import KeySettings, ServeSettings


@dataclass(frozen=True)
class PreparedRequest:
    """Engine requests, and what is needed to write their answers out."""

    engine_requests: tuple[EngineRequest, ...]
    """One for each prompt; they differ in their prompts only."""
    max_tokens: int
    """Tokens after which a text is cut. The canvas may be longer: blocks are filled whole."""
    structure: PlannedStructure | None
    """The structure of the answers, if the request asks for one."""
    warnings: list[str]
    """Settings that have no effect, a line each."""
    model: str
    fingerprint: str
    """Name of the server's version and weights, which may change between two answers."""
    chat: bool
    """Whether answers are messages; text otherwise."""
    logprobs: bool
    stream: bool
    stream_options: StreamOptions
    padding: frozenset[int]
    """Ids that fill the positions behind a short value; they are no part of the answer."""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        """Id of the answer."""
        return self.engine_requests[0].id

    @property
    def prompt_tokens(self) -> int:
        """Positions of all prompts."""
        return sum(request.prompt_tokens for request in self.engine_requests)

    @property
    def choices(self) -> int:
        """Number of answers to all prompts."""
        return sum(request.choices for request in self.engine_requests)

    @property
    def stream_mode(self) -> StreamMode | None:
        return self.engine_requests[0].stream_mode

    @property
    def deadline(self) -> float:
        """When the request ends unanswered, by ``time.time()``."""
        return self.engine_requests[0].deadline

    @property
    def outline(self) -> Outline | None:
        """What all answers follow; None if they may be text."""
        return None if self.structure is None or self.structure.optional else self.structure.compiled.outline

    def calls_tools(self, follows_outline: bool, text: str) -> bool:
        """Whether an answer is calls of tools.

        ``follows_outline`` tells whether it follows the outline of its structure, ``text`` is its beginning.
        """
        if self.structure is None or self.structure.spec.kind is not StructureKind.tool_calls:
            return False
        return follows_outline and (self.structure.calls_only or text.startswith(CALL_MARK))

    def limit(self, follows_outline: bool) -> int:
        """Tokens after which an answer is cut."""
        if self.structure is None or not follows_outline:
            return self.max_tokens
        return self.structure.compiled.max_tokens


class RequestPlanner:
    """Prepares requests for a model and its adapters."""

    def __init__(
        self,
        settings: ServeSettings,
        tokenizer: ChatTokenizer,
        model: ModelConfig,
        geometry: ViewGeometry,
        fingerprints: Mapping[str, str],
    ) -> None:
        """``fingerprints`` are names of the server's version and weights, by the name of a model."""
        self._fingerprints = fingerprints
        self._settings, self._tokenizer, self._geometry = settings, tokenizer, geometry
        self._max_frames = model.images.inference_frames
        self._max_positions = model.language.max_positions
        self._limits = RequestLimits(settings, self._max_positions)
        self._options = OptionsPlanner(settings, tokenizer, model, self._limits)
        self._padding = frozenset((tokenizer.ids.eos, tokenizer.ids.eot))
        self._structures = StructurePlanner(settings.decoding, tokenizer)

    def check_aliases(self) -> None:
        """Raise ``UserError`` for an alias with which a request without other params would be refused."""
        for name in self._settings.aliases:
            message = {"role": "user", "content": ""}
            body = ChatRequest.model_validate({"model": name, "messages": [message]})
            try:
                self.check(body, None)
                self.prepare(body, None, deadline=0.0, structure=None)
            except ApiError as error:
                raise UserError(f"aliases.{name}: {error.message}") from None

    def deadline(self, body: DecodingBody, arrived: float) -> float:
        """When a request that arrived at ``arrived`` ends unanswered; both by ``time.time()``."""
        limit = self._settings.limits.deadline_ms
        return arrived + min(body.deadline_ms or limit, limit) / 1000

    def frames(self, body: ChatRequest) -> int:
        """Most frames of each video of a request. Raises ``ApiError`` for more than the model's number."""
        frames, param = body.frames, "media_io_kwargs.video.num_frames"
        if frames is not None and frames > self._max_frames:
            message = f"{param}: at most {self._max_frames} frames here, not {frames}; ask for fewer"
            raise ApiError(400, message, param=param)
        return frames or self._max_frames

    def check(self, body: DecodingBody, key: KeySettings | None) -> RequestedStructure | None:
        """The structure that a request asks for.

        Raises ``ApiError`` for what can be refused before texts are encoded, which takes long.
        """
        if body.model not in self._settings.models:
            raise unknown_model(body.model, self._settings)
        self._limits.check(body, key)
        requested = requested_structure(body)
        self._options.check(body, requested)
        if isinstance(body, ChatRequest):
            check_messages(body)
            self.frames(body)
        return requested

    def structure(
        self, requested: RequestedStructure, body: DecodingBody, key: KeySettings | None
    ) -> PlannedStructure | None:
        """The compiled structure of a request; raises ``ApiError``. May take seconds."""
        max_tokens = self._options.max_tokens(body, key, structured=True)
        return self._structures.compile(requested, body, max_tokens)

    def prepare(
        self,
        body: DecodingBody,
        key: KeySettings | None,
        deadline: float,
        structure: PlannedStructure | None,
    ) -> PreparedRequest:
        """The prepared request, without its images; raises ``ApiError`` if it cannot work.

        The caller has called ``check`` and ``structure``. Reading images is expensive, so everything else
        that can be wrong is found by these three.
        """
        options, refresh = self._options.plan(body, key, structure)
        max_tokens = self._options.max_tokens(body, key)
        chat = isinstance(body, ChatRequest)
        request = partial(
            EngineRequest,
            id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            options=options.with_outline(None),
            refresh=refresh,
            deadline=deadline,
            choices=body.choices,
            stop=tuple(body.stops) if structure is None or structure.optional else (),
            stream_mode=body.stream_mode if body.stream else None,
            adapter=self._settings.adapter_of(body.model),
            structure=structure and structure.spec,
        )
        requests = tuple(
            self._checked(request(prompt=each, prompt_tokens=prompt_length(each, self._geometry)), param)
            for param, each in self._prompts(body, structure)
        )
        return PreparedRequest(
            engine_requests=requests,
            max_tokens=max_tokens,
            structure=structure,
            warnings=[*request_warnings(body, requests[0], max_tokens), *structure_warnings(structure, body)],
            model=body.model,
            fingerprint=self._fingerprints[body.model],
            chat=chat,
            logprobs=isinstance(body, ChatRequest) and bool(body.logprobs),
            stream=bool(body.stream),
            stream_options=body.stream_options or StreamOptions(),
            padding=self._padding if structure else frozenset(),
        )

    def prompt_ids(self, body: DecodingBody) -> list[int]:
        """Token ids of the prompt of a request, or of its first; raises ``ApiError`` for one with images."""
        if isinstance(body, ChatRequest) and (media := media_references(body.messages)):
            message = f"{media[0].param}: images and videos have no token ids; leave them out"
            raise ApiError(400, message, param=media[0].param)
        _, prompt = next(self._prompts(body, None))
        return prompt.text.input_ids.tolist()

    def with_visuals(self, prepared: PreparedRequest, visuals: Sequence[Visual]) -> PreparedRequest:
        """The request with the images of its prompt; raises ``ApiError`` if they make it too long."""
        (request,) = prepared.engine_requests
        prompt = replace(request.prompt, visuals=list(visuals))
        tokens = prompt_length(prompt, self._geometry)
        request = self._checked(replace(request, prompt=prompt, prompt_tokens=tokens), "messages")
        return replace(prepared, engine_requests=(request,))

    def _prompts(
        self, body: DecodingBody, structure: PlannedStructure | None
    ) -> Iterator[tuple[str, Sample]]:
        """The prompts, each with the path of its field; raises ``ApiError``."""
        if isinstance(body, ChatRequest):
            tools = callable_tools(body) if structure else []
            yield "messages", chat_prompt(body, tools, self._tokenizer)
            return
        assert isinstance(body, CompletionRequest)
        for param, prompt in body.prompts.items():
            if isinstance(prompt, str):
                yield param, text_prompt(prompt, self._tokenizer)
            else:
                yield param, token_prompt(prompt, self._tokenizer.vocab_size, param)

    def _checked(self, request: EngineRequest, param: str) -> EngineRequest:
        """The request; raises ``ApiError`` if its prompt and answer are too long for the model."""
        answer = request.options.answer_positions
        if request.prompt_tokens + answer > self._max_positions:
            message = (
                f"the prompt's {request.prompt_tokens} tokens and {answer} of the answer are more than "
                f"the model's {self._max_positions}; shorten the prompt or max_tokens"
            )
            raise ApiError(400, message, code="context_length_exceeded", param=param)
        return request


def unknown_model(name: str, settings: ServeSettings) -> ApiError:
    """The error for a name that is neither the model's nor that of an adapter or an alias."""
    message = f"model: there is no {name!r} here; use {' or '.join(map(repr, settings.models))}"
    return ApiError(404, message, code="model_not_found", param="model")
