"""Training of the whole tiny model from its towers, on lessons that no stage of the curriculum has.

First the projector learns to write an image as the language tower has read it in its pretraining: each visual
token becomes the embedding of its character. Then all parts are trained together.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lladav.checkpoint import export, load
from lladav.config.schema import Config, ModelPart
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.packing import pack
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from train.toy_towers.batches import EqualLengthBatches
from train.toy_towers.fit import Fit, fit, is_first_process, shuffled
from train.toy_towers.lessons import Mixture, lesson_at
from train.toy_towers.noising import Noising
from train.toy_towers.recipe import Recipe, TrainingPhase
from train.toy_towers.samples import SampleWriter
from train.trainer.progress import format_seconds, report

PROCESSES = 2

ALIGNMENT = Fit(steps=300, batch=64, adam_lr=5e-3, muon_lr=0.0)
ALIGNMENT_LESSONS = 3000
ALIGNMENT_MIXTURE = Mixture({"one_image": 0.7, "several_images": 0.2, "clip": 0.1})


class AlignmentLoss:
    """The distance of visual tokens from the embeddings of the characters that spell the image."""

    def __init__(self, model: LLaDAV, config: Config, tokenizer: ChatTokenizer, lessons: int) -> None:
        self._model, self._seed = model, config.train.seed
        writer = SampleWriter(tokenizer, model.geometry)
        drawn = [lesson_at("alignment", i, self._seed, ALIGNMENT_MIXTURE) for i in range(lessons)]
        self._samples = [writer.seen(each) for each in drawn]
        self._characters = [torch.tensor(writer.characters(each.record)) for each in drawn]

    def __call__(self, step: int) -> Tensor:
        chosen = shuffled(len(self._samples), ALIGNMENT.batch, step, self._seed).tolist()
        packed = pack([self._samples[i] for i in chosen], self._model.geometry)
        visual_VW = self._model.visual_tokens(packed.views_NCHW, packed.shapes)
        target_VW = self._model.language.embed_tokens(torch.cat([self._characters[i] for i in chosen]))
        return mse_loss(visual_VW, target_VW) / target_VW.var()


class PhaseLoss:
    """The loss of the objective on a batch of a phase's lessons, as a function of the step.

    A process has every ``world``-th lesson, and makes them when the first step needs them.
    """

    def __init__(
        self, model: LLaDAV, config: Config, tokenizer: ChatTokenizer, name: str, phase: TrainingPhase
    ) -> None:
        noise = replace(config.objective, min_mask_ratio=phase.min_mask_ratio)
        self._model, self._name, self._phase = model, name, phase
        self._noising = Noising.of(replace(config, objective=noise), tokenizer)
        self._writer = SampleWriter(tokenizer, model.geometry)

    def __call__(self, step: int) -> Tensor:
        return self._model(self._noising.batch(self._batches.at(step), self._model.geometry, step))[0]

    @cached_property
    def _batches(self) -> EqualLengthBatches:
        rank, world = dist.get_rank(), dist.get_world_size()
        seed, mixture = self._noising.objective.seed, self._phase.mixture
        indices = range(rank, self._phase.lessons, world)
        seen = [self._writer.seen(lesson_at(self._name, index, seed, mixture)) for index in indices]
        return EqualLengthBatches(seen, self._model.geometry, self._phase.batch // world, seed)


class WeightedMean:
    """A mean of a model's weights at several moments; the shares are divided by their sum."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        self._sums, self._total = [torch.zeros_like(each) for each in self._parameters], 0.0

    @torch.no_grad()
    def add(self, share: float) -> None:
        """Add the weights that the model has now."""
        self._total += share
        for added, parameter in zip(self._sums, self._parameters, strict=True):
            added.add_(parameter, alpha=share)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Replace the model's weights by the mean."""
        for added, parameter in zip(self._sums, self._parameters, strict=True):
            parameter.copy_(added / self._total)


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
    states = {name: work / f"{name}.pt" for name in recipe.phases}
    if not any(state.is_file() for state in states.values()):
        align(model, config, tokenizer, recipe.alignment)
    seconds, mean = 0.0, WeightedMean(model)
    for name, phase in recipe.phases.items():
        loss = PhaseLoss(model, config, tokenizer, name, phase)
        seconds += fit(name, model.named_parameters(), phase.fit, loss, states[name])
        mean.add(recipe.average.get(name, 0.0))
    mean.copy_to_model()
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
