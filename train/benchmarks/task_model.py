"""Answers the questions of benchmark tasks: settings, prompts and replicas put together.

LMMs-Eval calls this through ``train.benchmarks.lmms_eval_model``; nothing here imports it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import ray
import torch

from lladav.checkpoint import model_config_of
from lladav.cluster import connect
from lladav.config.introspection import nearest
from lladav.config.schema import ClusterConfig
from lladav.decoding.cpu_weights import fastest_dtype
from lladav.decoding.params import DecodingOptions
from lladav.errors import UserError
from lladav.generation import DTYPES, structured_settings
from lladav.inputs.chat import ChatTokenizer
from lladav.storage import absolute_model
from lladav.storage.local_cache import local_model
from lladav.structured.files import read_schema_file, schema_errors
from train.benchmarks.replicas import (
    ActorReplica,
    LocalReplica,
    Replica,
    ReplicaOptions,
    TaskOutcome,
    TaskRequest,
    decode_all,
)
from train.benchmarks.task_prompts import TaskPrompts
from train.benchmarks.task_settings import SettingsLayer, TaskSettings, file_layer, known_names, resolve

JOINTS = {"blank": " ", "newline": "\n"}
"""What stands between the marks of several images, by ``image_joint``."""
AUTO_ROWS = 32
"""Requests that are decoded together with ``batch_size=auto``."""


@dataclass(frozen=True)
class TaskModelArguments:
    """Arguments of the model; all others are decoding settings."""

    model: str
    settings: str | None = None
    """A file of ``conf/evaluation`` with decoding settings by task."""
    batch_size: int | str = 1
    """Requests that an engine decodes together, or ``auto``."""
    replicas: int | None = None
    """Engines; by default one for each GPU of this machine, or of the cluster that ``RAY_ADDRESS`` names."""
    device: str | None = None
    dtype: str | None = None
    """Number format of the weights; by default the fastest on the device."""
    kv_bytes: int | None = None
    """Memory of the KV cache and of prompts of each engine."""
    frames: int | None = None
    """Most frames of a video; by default ``model.images.inference_frames``."""
    image_joint: str = "blank"
    on_error: str = "raise"
    """What a request without an answer does: ``raise`` ends the evaluation, ``mark`` counts it as wrong, with
    the error as its answer."""
    schema: str | None = None
    """A file with a JSON schema that every answer fits."""
    decoding: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TaskModelArguments:
        """Sort arguments into those of the model and decoding settings; raises ``UserError``."""
        names = [each.name for each in fields(cls) if each.name != "decoding"]
        known = {name: value for name, value in given.items() if name in names and value is not None}
        others = {name: value for name, value in given.items() if name not in names}
        for name in others:
            if name not in (choices := known_names()):
                guess = nearest(name, [*names, *choices])
                hint = f"did you mean {guess}?" if guess else f"choose from {', '.join(names)}"
                raise UserError(f"model_args: {name}: unknown argument; {hint}")
        if "model" not in known:
            raise UserError("model_args: model: names no checkpoint; use --model_args model=FOLDER")
        return cls(**known, decoding=others).checked()

    def checked(self) -> TaskModelArguments:
        """Itself; raises ``UserError`` for a value that is not allowed."""
        _choose("image_joint", self.image_joint, JOINTS)
        _choose("on_error", self.on_error, ("raise", "mark"))
        _choose("dtype", self.dtype or DTYPES[0], DTYPES)
        for name in ("replicas", "kv_bytes", "frames"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"model_args: {name}={value}: must be a whole number, 1 or more")
        if self.rows < 1:
            raise UserError(f"batch_size={self.batch_size}: must be 1 or more, or auto")
        return self

    @property
    def rows(self) -> int:
        """Requests that an engine decodes together."""
        size = str(self.batch_size)
        return AUTO_ROWS if size.startswith("auto") else int(size) if size.isdecimal() else 0


@dataclass(frozen=True)
class TaskQuestion:
    """A question of a task."""

    task: str
    document: str
    text: str
    media: Callable[[], Sequence[Any]]
    """Returns PIL images or paths of videos; called when the question is about to be decoded."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Generation settings of the task."""

    @property
    def name(self) -> str:
        return f"{self.task}/{self.document}"


@dataclass(frozen=True)
class TaskAnswers:
    """Answers in the order of their questions."""

    outcomes: list[TaskOutcome]
    seconds: float
    """Wall time of all questions, with the preparation of images and videos."""

    @property
    def tokens(self) -> int:
        """Tokens that are not EOS."""
        return sum(outcome.tokens for outcome in self.outcomes)

    @property
    def failed(self) -> int:
        return sum(outcome.error is not None for outcome in self.outcomes)

    @property
    def speed(self) -> float:
        """Tokens per second, as in the paper's Table 8."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def throughput(self) -> str:
        """A line for the terminal."""
        return (
            f"{self.tokens} tokens that are not EOS in {self.seconds:.1f} s: {self.speed:.1f} tokens/s "
            f"({len(self.outcomes)} questions, image preparation included)"
        )


class TaskModel:
    """A checkpoint that answers questions of tasks."""

    def __init__(self, arguments: TaskModelArguments) -> None:
        """Raises ``UserError`` for settings that cannot work, before weights are read."""
        self._arguments = arguments
        self._model_layer = SettingsLayer("model_args", arguments.decoding)
        resolve([self._model_layer])
        folder = local_model(arguments.model)
        config, self._tokenizer = model_config_of(folder), ChatTokenizer.load(folder)
        self._prediction, self._allow_eos = config.prediction, config.allow_eos
        self._structure = read_schema_file(Path(arguments.schema)) if arguments.schema else None
        joint = JOINTS[arguments.image_joint]
        self._prompts = TaskPrompts(config, self._tokenizer, arguments.frames, joint)
        self._replicas = start_replicas(arguments)

    def answer(
        self, questions: Sequence[TaskQuestion], progress: Callable[[], object] = lambda: None
    ) -> TaskAnswers:
        """Answer all questions; ``progress`` is called for each answer.

        Raises ``UserError`` for settings that cannot work before the first question is decoded, and, unless
        ``on_error`` is ``mark``, for a question that gets no answer.
        """
        begin = time.monotonic()
        planned = [self._plan(question) for question in questions]
        outcomes: dict[int, TaskOutcome] = {}

        def prepare(index: int) -> TaskRequest | TaskOutcome:
            question, (settings, options) = questions[index], planned[index]
            text = question.text + settings.suffix
            try:
                prompt = self._prompts.prompt(question.name, text, question.media())
            except (UserError, OSError) as error:  # an image or video cannot be read
                return TaskOutcome(index, error=str(error))
            return TaskRequest(index, prompt, options, settings.until, self._structure)

        def accept(outcome: TaskOutcome) -> None:
            if outcome.error is not None and self._arguments.on_error == "raise":
                raise UserError(f"{questions[outcome.index].name}: {outcome.error}")
            outcomes[outcome.index] = outcome
            progress()

        decode_all(range(len(questions)), prepare, self._replicas, self._arguments.rows, accept)
        ordered = [outcomes[index] for index in range(len(questions))]
        return TaskAnswers(ordered, time.monotonic() - begin)

    def _plan(self, question: TaskQuestion) -> tuple[TaskSettings, DecodingOptions]:
        where = f"generation settings of task {question.task}"
        layers = [self._model_layer, SettingsLayer(where, question.settings)]
        if self._arguments.settings is not None:
            layers.insert(0, _file_layer(self._arguments.settings, question.task))
        settings = resolve(layers)
        try:
            return settings, self._options(settings.options)
        except UserError as error:
            raise UserError(f"task {question.task}: {error}") from None

    def _options(self, settings: Mapping[str, Any]) -> DecodingOptions:
        """The options of a question, without the outline of its structure."""
        own = {"allow_eos": self._allow_eos, **settings}
        if self._structure is not None:
            with schema_errors(f"model_args: schema={self._arguments.schema}"):
                own = structured_settings(self._tokenizer, self._prediction, self._structure, own)
        return DecodingOptions.for_chat(self._tokenizer.ids, self._prediction, **own).with_outline(None)


_file_layer = cache(file_layer)


def start_replicas(arguments: TaskModelArguments) -> list[Replica]:
    """Engines on all GPUs: one in this process, or several in Ray actors."""
    address = os.environ.get("RAY_ADDRESS")
    gpus = torch.cuda.device_count()
    if (arguments.replicas or gpus) <= 1 and not address:
        return [LocalReplica(_replica_options(arguments, gpus))]
    workers = arguments.replicas or gpus or 1
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    stack.enter_context(connect(ClusterConfig(name="evaluation", address=address, workers=workers)))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    options = _replica_options(arguments, gpus)
    return [ActorReplica(options) for _ in range(arguments.replicas or gpus or 1)]


def _replica_options(arguments: TaskModelArguments, gpus: int) -> ReplicaOptions:
    device = arguments.device or ("cuda" if gpus else "cpu")
    dtype = arguments.dtype or fastest_dtype("cuda" if device.startswith("cuda") else device)
    # The working directory of an actor may be another one.
    model = absolute_model(arguments.model)
    return ReplicaOptions(model, dtype, device, arguments.rows, arguments.kv_bytes)


def released_form(text: str) -> str:
    """The answer as the released evaluation class returns it: without one final full stop, stripped."""
    return text.removesuffix(".").strip()


def _choose(name: str, value: str, choices: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in choices:
        raise UserError(f"model_args: {name}={value}: use one of {', '.join(choices)}")
