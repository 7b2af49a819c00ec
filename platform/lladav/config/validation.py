"""Checks of values: the range that the schema declares for each setting, and checks across settings.

Each check yields whole error lines: the key, what is wrong with it, what to set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from lladav.config.choices import LORA_TARGETS, AdapterKind
from lladav.config.introspection import choices_hint, format_value
from lladav.config.sampling import parse_sampling
from lladav.config.schema import Attention, Config, LoraConfig, ObjectiveConfig, Prediction
from lladav.errors import UserError

MOST_TRIED = 1_000_000
"""Numbers that are tried for a suggestion, at most."""


def check(config: Config) -> None:
    """Raise ``UserError`` for the first setting that is out of range or contradicts another."""
    for rule in RULES:
        for message in rule(config):
            raise UserError(message)


def _own_values(section: Any, prefix: str = "") -> Iterator[str]:
    """What the schema declares for each setting alone, in all sections below ``section``."""
    for entry in fields(section):
        path, value = f"{prefix}{entry.name}", getattr(section, entry.name)
        info = entry.metadata.get("setting")
        if is_dataclass(value):
            yield from _own_values(value, f"{path}.")
        elif isinstance(value, dict):
            for name, each in value.items():
                if is_dataclass(each):
                    yield from _own_values(each, f"{path}.{name}.")
        elif info and value is not None and (problem := info.problem(value)):
            yield f"{path}={format_value(value)}: {problem}"


def _stage(config: Config) -> Iterator[str]:
    stage = config.stage
    trained = [part.name for part in stage.trained]
    if not trained:
        yield "stage.trained=[]: nothing would learn; name some of language, projector, vision"
    if len(set(trained)) < len(trained):
        yield f"stage.trained={format_value(trained)}: names a part twice; name each once"
    longest = config.model.language.max_positions
    if stage.max_length > longest:
        yield f"stage.max_length={stage.max_length}: must not be above model.language.max_positions={longest}"


def _sources(config: Config) -> Iterator[str]:
    stage, known = config.stage, config.data.sources
    if not stage.sources:
        yield f"stage.sources=[]: stage {stage.name} has no data; name some of {', '.join(known)}"
    if len(set(stage.sources)) < len(stage.sources):
        yield f"stage.sources={format_value(stage.sources)}: names a source twice; name each once"
    for name in stage.sources:
        if name not in known:
            lacks = f"data {config.data.name} has no {name}{choices_hint(name, known)}"
            yield f"stage.sources={format_value(stage.sources)}: {lacks}"
    for name in stage.suffixes:
        if name not in stage.sources:
            yield f"stage.suffixes.{name}: not a source of this stage; add it to stage.sources or remove it"


def _samplings(config: Config) -> Iterator[str]:
    for name, source in config.data.sources.items():
        if source.sample is not None and parse_sampling(source.sample) is None:
            yield (
                f"data.sources.{name}.sample={source.sample}: must be first:N, end:N or random:N, with N a "
                "number of samples or a percentage, as in random:10%"
            )


def _validation(config: Config) -> Iterator[str]:
    held_out, known = config.data.validation, config.data.sources
    if held_out.share and held_out.sources:
        yield f"data.validation.share={held_out.share}: data.validation.sources is set, too; set one of them"
    if held_out.share == 1:
        yield "data.validation.share=1.0: leaves nothing to train on; set a smaller part"
    shown = f"data.validation.sources={format_value(held_out.sources)}"
    for name in held_out.sources:
        if name not in known:
            yield f"{shown}: data {config.data.name} has no {name}{choices_hint(name, known)}"
        if name in config.stage.sources:
            yield f"{shown}: stage.sources has {name}, too; train and validate on different records"
    if held_out.questions and not config.validates:
        yield f"data.validation.questions={held_out.questions}: set data.validation.share, too"
    if config.train.patience is not None and not config.validates:
        yield f"train.patience={config.train.patience}: needs validations; set data.validation.share"


def _workers(config: Config) -> Iterator[str]:
    fewest, most = config.cluster.min_workers, config.cluster.workers
    if fewest is not None and not 1 <= fewest <= most:
        yield f"cluster.min_workers={fewest}: must be from 1 to cluster.workers={most}"


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor up to a limit; of huge numbers a large one."""
    tried = range(1, min(limit, math.isqrt(number), MOST_TRIED) + 1)
    pairs = ((small, number // small) for small in tried if number % small == 0)
    return max(each for pair in pairs for each in pair if each <= limit)


def _batch(config: Config) -> Iterator[str]:
    batch, micro, workers = config.stage.global_batch, config.train.micro_batch, config.cluster.workers
    if batch % (micro * workers) == 0:
        return
    if batch % workers == 0:
        fix = f"set train.micro_batch={_largest_divisor(batch // workers, micro)}"
    else:
        above = math.ceil(batch / (micro * workers)) * micro * workers
        fix = f"set stage.global_batch={above} or other workers"
    product = f"train.micro_batch={micro} x cluster.workers={workers}"
    yield f"stage.global_batch={batch}: not a multiple of {product}; {fix}"


def _language(config: Config) -> Iterator[str]:
    language = config.model.language
    width, heads, kv_heads = language.width, language.heads, language.kv_heads
    if width % (2 * heads):
        yield f"model.language.width={width}: must be an even number for each of model.language.heads={heads}"
    if heads % kv_heads:
        yield f"model.language.kv_heads={kv_heads}: must divide model.language.heads={heads}"


def _vision(config: Config) -> Iterator[str]:
    vision, frame_side = config.model.vision, config.model.images.frame_side
    size, patch = vision.image_size, vision.patch_size
    side = size // patch
    if vision.width % vision.heads:
        yield f"model.vision.width={vision.width}: must be a multiple of model.vision.heads={vision.heads}"
    if side < 1:
        yield f"model.vision.patch_size={patch}: must not be above model.vision.image_size={size}"
    if not -vision.layers <= vision.feature_layer <= -1:
        yield f"model.vision.feature_layer={vision.feature_layer}: must be from {-vision.layers} to -1"
    if frame_side > side:
        yield f"model.images.frame_side={frame_side}: a view has {side} x {side} patches; set at most {side}"


def _tokens(config: Config) -> Iterator[str]:
    tokens, vocabulary = config.model.tokens, config.model.language.vocab_size
    if tokens.mask is None and config.objective.kind is Prediction.masked:
        yield f"model.tokens.mask=null: objective.kind={Prediction.masked} needs a mask token; set its id"
    ids = {name: token for name, token in vars(tokens).items() if token is not None}
    for name, token in ids.items():
        if not 0 <= token < vocabulary:
            yield f"model.tokens.{name}={token}: must be below model.language.vocab_size={vocabulary}"
        twin = next(other for other, value in ids.items() if value == token)
        if twin != name:
            yield f"model.tokens.{name}={token}: also the id of model.tokens.{twin}; each needs its own"


def _betas(config: Config) -> Iterator[str]:
    betas = config.train.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        yield (f"train.betas={format_value(betas)}: must be two numbers from 0 to below 1, as in [0.9,0.999]")


def _prediction(config: Config) -> Iterator[str]:
    kind, predicts, attention = config.objective.kind, config.model.prediction, config.model.attention
    if predicts is not kind:
        yield f"model.prediction={predicts}: contradicts objective.kind={kind}; set objective.kind={predicts}"
    if kind is Prediction.next_token and attention is not Attention.causal:
        yield f"objective.kind={kind}: needs model.attention=causal, not {attention}"


def _objective(config: Config) -> Iterator[str]:
    if config.objective.kind is Prediction.masked:
        return
    if config.model.allow_eos:
        yield "model.allow_eos=true: a model that predicts the next token always writes EOS; leave it out"
    for name in ("stratified", "min_mask_ratio", "block_length"):
        value, without = getattr(config.objective, name), getattr(ObjectiveConfig, name)
        if value != without:
            yield (
                f"objective.{name}={format_value(value)}: objective.kind={config.objective.kind} masks "
                f"nothing; set objective.{name}={format_value(without)}"
            )


def _adapter(config: Config) -> Iterator[str]:
    stage, train = config.stage, config.train
    if train.adapter is None:
        for name, value in vars(train.lora).items():
            if value != getattr(LoraConfig(), name):
                key = f"train.lora.{name}={format_value(value)}"
                yield f"{key}: has no effect; set train.adapter={AdapterKind.lora}"
        return
    if not config.adapted:
        trained = format_value([part.name for part in stage.trained])
        yield f"train.adapter={train.adapter}: stage.trained={trained} has no tower; add language or vision"
    if not (train.init or stage.starts_from or config.model.weights.llada_v):
        yield (
            f"train.adapter={train.adapter}: an adapter belongs to a whole model, and stage {stage.name} "
            "starts from separate towers; set model.weights.llada_v or train.init"
        )


def _adapted_layers(config: Config) -> Iterator[str]:
    lora, targets = config.train.lora, config.train.lora.targets
    if config.adapted and lora.vocabulary and not config.trains_vocabulary:
        yield "train.lora.vocabulary=true: has no effect; add language to stage.trained"
    for tower in config.adapted:
        layers = LORA_TARGETS[tower]
        if not set(targets) & set(layers):
            shown = format_value([target.name for target in targets])
            yield f"train.lora.targets={shown}: none is in {tower}; add some of {', '.join(layers)}"


RULES = (
    _own_values,
    _prediction,
    _objective,
    _stage,
    _adapter,
    _adapted_layers,
    _sources,
    _samplings,
    _validation,
    _workers,
    _batch,
    _language,
    _vision,
    _tokens,
    _betas,
)
