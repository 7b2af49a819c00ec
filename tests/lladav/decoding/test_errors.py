"""Failures: a request fails alone, with one line and a kind, and the engine continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lladav.decoding.errors import FailureKind
from lladav.decoding.model_runner import ModelRunner, Row
from lladav.decoding.params import DecodingOptions
from lladav.decoding.results import UnmaskedTokens
from lladav.errors import UserError
from lladav.inputs.samples import Sample
from lladav.model.language import LanguageTower
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import image_sample, text_sample, variant
from tests.lladav.decoding.test_engine import MODEL, OPTIONS, TWELVE, engine_of, one, run


def test_a_prompt_that_cannot_be_encoded_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    encode = engine.prompt_encoder.encode

    def failing(prompt: Sample, adapter: str | None) -> Any:
        if prompt.id == "bad":
            raise RuntimeError("no such image\nand more")
        return encode(prompt, adapter)

    monkeypatch.setattr(engine.prompt_encoder, "encode", failing)
    for name in ("bad", "good"):
        engine.submit(text_sample(name, 5), replace(TWELVE, refresh_interval=4))
    errors = [update.error for update in engine.step() if update.error]
    assert errors == ["the prompt could not be encoded: RuntimeError: no such image"]
    assert set(run(engine)) == {"good"}
    assert engine.kv_cache.free_blocks == engine.kv_cache.total_blocks


def test_the_engine_continues_after_a_failed_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    engine.submit(text_sample("a", 5), TWELVE)
    with monkeypatch.context() as patched:
        patched.setattr(LanguageTower, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
        (update,) = engine.step()
    assert update.error == "the step failed: RuntimeError: broken"
    engine.submit(text_sample("a", 5), TWELVE)
    assert set(run(engine)) == {"a"}


def test_a_row_that_fails_the_forward_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options, step = replace(TWELVE, temperature=1.0), ModelRunner.step

    def broken(runner: ModelRunner, rows: Sequence[Row]) -> list[UnmaskedTokens | None]:
        if any(row.id == "bad" for row in rows):
            for row in rows:
                torch.rand(1, generator=row.generator)
            raise RuntimeError("broken")
        return step(runner, rows)

    prompts = [text_sample(name, 5, seed=n) for n, name in enumerate(("a", "bad", "b"))]
    engine = engine_of()
    for prompt in prompts:
        engine.submit(prompt, options)
    with monkeypatch.context() as patched:
        patched.setattr(ModelRunner, "step", broken)
        updates = engine.step()
    assert [update.id for update in updates if update.error] == ["bad"]
    answers = run(engine)
    assert [answers[p.id].tokens for p in prompts[::2]] == [
        one(MODEL, p, options).tokens for p in prompts[::2]
    ]


def damaged(model: LLaDAV, name: str, value: float = torch.nan) -> LLaDAV:
    """A copy of the model with one changed number in a weight."""
    broken = variant(model)
    with torch.no_grad():
        broken.get_parameter(name).view(-1)[7] = value
    return broken


WEIGHTS = ["language.layers.1.mlp.up_proj.weight", "language.lm_head.weight"]


@pytest.mark.parametrize("options", OPTIONS)
def test_logits_that_are_not_finite_are_an_error_at_any_setting(options: DecodingOptions) -> None:
    for name in WEIGHTS:
        engine = engine_of(model=damaged(MODEL, name))
        engine.submit(text_sample("p", 6), options)
        (update,) = engine.step()
        assert update.failure is FailureKind.not_finite
        assert update.error is not None
        assert update.error.startswith("logits are not finite: the weights are damaged, or ")
        assert "\n" not in update.error
        assert not engine.busy
        assert engine.kv_cache.free_blocks == engine.kv_cache.total_blocks


def test_decode_raises_where_logits_are_not_finite() -> None:
    overflowing = variant(MODEL)
    with torch.no_grad():
        overflowing.language.norm.weight.fill_(3e38)
    with pytest.raises(UserError, match=r"sample p: logits are not finite: .* too large for float32"):
        one(overflowing, text_sample("p", 6), TWELVE)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_row_whose_logits_are_not_finite_fails_alone(
    options: DecodingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [text_sample(name, 5, seed=n) for n, name in enumerate(("a", "bad", "b"))]
    engine = engine_of()
    encode = engine.prompt_encoder.encode

    def damaging(prompt: Sample, adapter: str | None) -> Any:
        embeddings_PW, turns_P = encode(prompt, adapter)
        return embeddings_PW + (torch.nan if prompt.id == "bad" else 0.0), turns_P

    monkeypatch.setattr(engine.prompt_encoder, "encode", damaging)
    for prompt in prompts:
        engine.submit(prompt, options)
    updates = engine.step()
    assert [update.id for update in updates if update.failure is FailureKind.not_finite] == ["bad"]
    assert sorted(update.id for update in updates) == ["a", "b", "bad"]
    answers = run(engine)
    assert [answers[p.id].tokens for p in prompts[::2]] == [
        one(MODEL, p, options).tokens for p in prompts[::2]
    ]


def test_an_image_whose_features_are_not_finite_fails_its_request_and_is_not_cached() -> None:
    engine = engine_of(model=damaged(MODEL, "projector.0.weight"))
    engine.submit(image_sample("image", MODEL.geometry, [(40, 30)]), TWELVE)
    engine.submit(text_sample("text", 5), TWELVE)
    (failed,) = [update for update in engine.step() if update.error]
    assert (failed.id, failed.failure) == ("image", FailureKind.not_finite)
    assert failed.error is not None
    assert "features of an image are not finite" in failed.error
    assert engine.prompt_encoder._bytes == 0
    assert set(run(engine)) == {"text"}
