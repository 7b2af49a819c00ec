"""Training of the whole tiny model from its towers, on lessons that no stage of the curriculum has.

First the projector learns to write an image as the language tower has read it in its pretraining: each visual
token becomes the embedding of its character. Then all parts are trained together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import mse_loss

from lladav.checkpoint import export, load
from lladav.config.schema import Config, ModelPart
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.packing import pack
from lladav.inputs.samples import Sample
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from train.toy_towers.batches import EqualLengthBatches
from train.toy_towers.fit import Fit, fit, is_first_process, shuffled
from train.toy_towers.lessons import lesson_at
from train.toy_towers.noising import Noising
from train.toy_towers.recipe import Recipe
from train.toy_towers.samples import SampleWriter
from train.trainer.progress import format_seconds, report

PROCESSES = 2

ALIGNMENT = Fit(steps=300, batch=64, adam_lr=5e-3, muon_lr=0.0)
ALIGNMENT_LESSONS = 3000
ALIGNMENT_SHARES = {"one_image": 0.7, "several_images": 0.2, "clip": 0.1}


class AlignmentLoss:
    """The distance of visual tokens from the embeddings of the characters that spell the image."""

    def __init__(self, model: LLaDAV, config: Config, tokenizer: ChatTokenizer, lessons: int) -> None:
        self._model, self._seed = model, config.train.seed
        writer = SampleWriter(tokenizer, model.geometry)
        drawn = [lesson_at("alignment", i, self._seed, ALIGNMENT_SHARES) for i in range(lessons)]
        self._samples = [writer.seen(each) for each in drawn]
        self._characters = [torch.tensor(writer.characters(each.record)) for each in drawn]

    def __call__(self, step: int) -> Tensor:
        chosen = shuffled(len(self._samples), ALIGNMENT.batch, step, self._seed).tolist()
        packed = pack([self._samples[i] for i in chosen], self._model.geometry)
        visual_VW = self._model.visual_tokens(packed.views_NCHW, packed.shapes)
        target_VW = self._model.language.embed_tokens(torch.cat([self._characters[i] for i in chosen]))
        return mse_loss(visual_VW, target_VW) / target_VW.var()


class WholeLoss:
    """The loss of the objective on a batch of lessons, as a function of the step."""

    def __init__(self, model: LLaDAV, noising: Noising, samples: Sequence[Sample], batch: int) -> None:
        self._model, self._noising = model, noising
        self._batches = EqualLengthBatches(samples, model.geometry, batch, noising.objective.seed)

    def __call__(self, step: int) -> Tensor:
        return self._model(self._noising.batch(self._batches.at(step), self._model.geometry, step))[0]


def align(model: LLaDAV, config: Config, tokenizer: ChatTokenizer, scale: float) -> float:
    """Train the projector and the newline; return the seconds it took. ``scale`` is the relative length."""
    trained = [*model.projector.named_parameters(), ("newline", model.newline)]
    frozen = [p for part in (model.vision, model.language) for p in part.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    loss = AlignmentLoss(model, config, tokenizer, max(ALIGNMENT.batch, round(ALIGNMENT_LESSONS * scale)))
    seconds = fit("projector", trained, ALIGNMENT.scaled(scale), loss)
    for parameter in frozen:
        parameter.requires_grad_(True)
    return seconds


def train_in_processes(config: Config, recipe: Recipe, work: Path) -> None:
    """Train the whole model from its towers and write ``work / "weights"``, in one process per core.

    Each process makes and trains on its own part of the lessons; the gradients are averaged.
    """
    with TemporaryDirectory() as folder:
        arguments = (PROCESSES, str(Path(folder) / "rendezvous"), config, recipe, work)
        torch.multiprocessing.spawn(_train_rank, arguments, PROCESSES)  # pyright: ignore[reportPrivateImportUsage]


def _train_rank(rank: int, world: int, rendezvous: str, config: Config, recipe: Recipe, work: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(config.train.seed)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    tokenizer = ChatTokenizer.load(config.model.tokenizer)
    model = from_towers(config)
    state = work / "state.pt"
    if not state.is_file():
        align(model, config, tokenizer, recipe.alignment)
    indices = range(rank, recipe.lessons, world)
    writer = SampleWriter(tokenizer, model.geometry)
    seen = [writer.seen(lesson_at("whole", index, config.train.seed, recipe.shares)) for index in indices]
    loss = WholeLoss(model, Noising.of(config, tokenizer), seen, recipe.batch // world)
    seconds = fit("whole model", model.named_parameters(), recipe.fit, loss, state)
    if is_first_process():
        export(model, config.model, work / "weights", tokenizer=config.model.tokenizer)
        report(f"whole model: {format_seconds(seconds)}")
    dist.barrier()
    dist.destroy_process_group()


def from_towers(config: Config) -> LLaDAV:
    """The model with the weights of its towers; projector and newline have their initial values."""
    weights = config.model.weights
    model = LLaDAV(config.model)
    initialize(model, config.train.seed)
    for part, folder in {ModelPart.vision: weights.vision, ModelPart.language: weights.language}.items():
        assert folder is not None
        load(model, folder, parts=[part])
    return model
