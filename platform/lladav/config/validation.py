"""What no type can say: settings that must be in a range, or fit each other.

Each rule yields whole one-line messages: the key, what is wrong with it, what to set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict

from lladav.config.fingerprint import flatten, format_value
from lladav.config.introspection import choices_hint
from lladav.config.schema import Config
from lladav.errors import UserError

POSITIVE = """
    model.language.vocab_size model.language.width model.language.mlp_width model.language.layers
    model.language.heads model.language.kv_heads model.language.rope_theta model.language.norm_eps
    model.language.max_positions model.vision.image_size model.vision.patch_size model.vision.width
    model.vision.mlp_width model.vision.layers model.vision.heads model.vision.norm_eps
    model.images.grid model.images.shrink_above_views model.images.max_frames model.images.frames_per_second
    model.images.folder_frames model.images.inference_frames
    model.images.frame_side stage.lr.language stage.lr.projector stage.lr.vision stage.global_batch
    stage.max_length stage.epochs objective.min_mask_ratio objective.block_length
    data.prefetch cluster.workers cluster.resize_seconds train.max_steps
    train.micro_batch train.eps train.clip train.loss_chunk train.checkpoint_every train.keep_checkpoints
    train.log_every
""".split()
NOT_NEGATIVE = """
    objective.eos_tail data.tasks cluster.cpus_per_worker cluster.gpus_per_worker cluster.threads_per_worker
    cluster.max_failures train.seed train.weight_decay train.persistence_threshold
""".split()
LARGEST_SEED = 2**63 - 1
"""That torch accepts."""
FRACTIONS = ("objective.min_mask_ratio", "data.bad_sample_budget", "train.warmup_ratio")
FILE_NAME = re.compile(r"[\w][\w.+-]*")
NAME_BYTES = 80
"""A run's folder is called after three names, and a file name has at most 255 bytes."""


def check(config: Config) -> None:
    """Raise ``UserError`` for the first setting that is out of range or does not fit the others."""
    for rule in (_ranges, _names, _stage, _sources, _workers, _batch, _language, _vision, _tokens, _train):
        for message in rule(config):
            raise UserError(message)


def _ranges(config: Config) -> Iterator[str]:
    values = flatten(asdict(config))
    for key in POSITIVE:
        if values[key] is not None and not 0 < values[key] < math.inf:
            yield f"{key}={format_value(values[key])}: must be above 0"
    for key in NOT_NEGATIVE:
        if not 0 <= values[key] < math.inf:
            yield f"{key}={format_value(values[key])}: must be 0 or more"
    for key in FRACTIONS:
        if not 0 <= values[key] <= 1:
            yield f"{key}={format_value(values[key])}: must be a fraction from 0 to 1"


def _names(config: Config) -> Iterator[str]:
    """Names that runs and their folders get."""
    names = {
        "stage.name": config.stage.name,
        "stage.starts_from": config.stage.starts_from,
        "model.name": config.model.name,
        "data.name": config.data.name,
        "train.run": config.train.run,
    }
    for key, name in names.items():
        if name is None:
            continue
        if not FILE_NAME.fullmatch(name):
            yield f"{key}={name}: part of a folder's name; use letters, digits and . _ + -"
        if len(name.encode()) > NAME_BYTES:
            yield f"{key}={name}: part of a folder's name; use at most {NAME_BYTES} bytes"


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
    for name, suffix in stage.suffixes.items():
        if name not in stage.sources:
            yield f"stage.suffixes.{name}: not a source of this stage; add it to stage.sources or remove it"
        if not 0 <= suffix.probability <= 1:
            yield f"stage.suffixes.{name}.probability={suffix.probability}: must be a fraction from 0 to 1"


def _workers(config: Config) -> Iterator[str]:
    fewest, most = config.cluster.min_workers, config.cluster.workers
    if fewest is not None and not 1 <= fewest <= most:
        yield f"cluster.min_workers={fewest}: must be from 1 to cluster.workers={most}"


def _batch(config: Config) -> Iterator[str]:
    batch, micro, workers = config.stage.global_batch, config.train.micro_batch, config.cluster.workers
    if batch % (micro * workers) == 0:
        return
    if batch % workers == 0:
        fitting = max(m for m in range(1, micro + 1) if batch % (m * workers) == 0)
        fix = f"set train.micro_batch={fitting}"
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
    ids, vocabulary = vars(config.model.tokens), config.model.language.vocab_size
    for name, token in ids.items():
        if not 0 <= token < vocabulary:
            yield f"model.tokens.{name}={token}: must be below model.language.vocab_size={vocabulary}"
        twin = next(other for other, value in ids.items() if value == token)
        if twin != name:
            yield f"model.tokens.{name}={token}: also the id of model.tokens.{twin}; each needs its own"


def _train(config: Config) -> Iterator[str]:
    train, betas = config.train, format_value(config.train.betas)
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        yield f"train.betas={betas}: must be two numbers from 0 to below 1, as in [0.9,0.999]"
    if train.seed > LARGEST_SEED:
        yield f"train.seed={train.seed}: must be at most {LARGEST_SEED}"
