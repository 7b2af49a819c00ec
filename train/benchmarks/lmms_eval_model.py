"""The model ``lladav`` of LMMs-Eval; only LMMs-Eval imports this module.

    python -m lmms_eval --model lladav --model_args model=FOLDER,settings=released --tasks mme

``docs/evaluation.md`` describes the arguments.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, TokenCounts  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.model_utils.gen_metrics import log_metrics  # pyright: ignore[reportMissingImports]
from tqdm import tqdm

from lladav.errors import UserError
from train.benchmarks.replicas import TaskOutcome
from train.benchmarks.task_model import TaskModel, TaskModelArguments, TaskQuestion, released_form

FAILED = "[LLADAV_REQUEST_FAILED]"
"""Beginning of the answer to a request that failed, with ``on_error=mark``."""


class LMMsEvalModel(lmms):
    """A LLaDA-V checkpoint; it decodes on all GPUs itself, so LMMs-Eval runs in one process."""

    is_simple = True

    def __init__(self, max_batch_size: int | None = None, **arguments: Any) -> None:
        """``arguments`` are those of ``TaskModelArguments`` and decoding settings. Raises ``UserError``."""
        super().__init__()
        del max_batch_size  # LMMs-Eval passes it to every model; the engine needs only batch_size
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("WORLD_SIZE is above 1: start one process, which uses all GPUs through Ray")
        self._model = TaskModel(TaskModelArguments.of(arguments))

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """The answers, in the order of the requests; prints the throughput."""
        questions = [self._question(*request.args) for request in requests]
        with tqdm(total=len(questions), desc="answers") as bar:
            answers = self._model.answer(questions, bar.update)
        print(f"lladav: {answers.throughput}", flush=True)
        if answers.failed:
            print(f"lladav: {answers.failed} requests FAILED; their answers begin with {FAILED}", flush=True)
        log_metrics(answers.seconds, answers.tokens, answers.speed)
        return [_result(outcome) for outcome in answers.outcomes]

    def _question(
        self, context: str, settings: dict[str, Any], to_media: Any, document: int, task: str, split: str
    ) -> TaskQuestion:
        media = partial(_media, to_media, self.task_dict[task][split], document)
        return TaskQuestion(task, str(document), context, media, settings)

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Raises ``UserError``: a diffusion model gives no probability of a whole answer."""
        raise UserError(f"lladav: {len(requests)} requests for log-likelihoods; choose tasks that generate")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Raises ``UserError``."""
        raise UserError(f"lladav: {len(requests)} requests of several rounds; choose tasks of one round")


def _media(to_media: Any, documents: Any, document: int) -> list[Any]:
    """The images, or paths of videos, of a document, without nesting."""
    return [_without_type(each) for each in _flat(to_media(documents[document]) or [])]


def _without_type(item: Any) -> Any:
    """The path in LMMs-Eval's ``{"type": "video", "url": PATH}``; other items as they are."""
    is_video = isinstance(item, dict) and item.get("type") == "video" and item.keys() == {"type", "url"}
    return item["url"] if is_video else item


def _flat(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        if isinstance(item, list | tuple):
            yield from _flat(item)
        else:
            yield item


def _result(outcome: TaskOutcome) -> GenerationResult:
    if outcome.error is not None:
        return GenerationResult(f"{FAILED} {outcome.error}", None)
    return GenerationResult(released_form(outcome.text), TokenCounts(output_tokens=outcome.tokens))
