"""Train the tiny model that lladav ships, evaluate it, and write it to a folder.

    make tiny-model
    python train/tiny_model.py recipe=tiny out=models/tiny work=runs/tiny-model

recipe   a file of conf/recipe
out      folder to create
work     folder of the parts; finished ones are kept, so the same command resumes
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from data.digits.preparation import prepare  # noqa: E402 - the path comes first
from data.digits.questions import Split  # noqa: E402
from lladav.config.cli import HELP_FLAGS, key_values, one_line_errors  # noqa: E402
from lladav.config.introspection import choices_hint  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from lladav.config.schema import Config  # noqa: E402
from lladav.errors import UserError  # noqa: E402
from train import towers  # noqa: E402
from train.evaluate import Score, answer_all, scores, stage_questions, table  # noqa: E402
from train.toy_towers.recipe import Recipe, load_recipe  # noqa: E402
from train.trainer.progress import report  # noqa: E402

DEFAULTS = {"recipe": "tiny", "out": "models/tiny", "work": "runs/tiny-model"}
TOWERS, WEIGHTS = "towers", "weights"
CARD = "README.md"
CARD_TEXT = """\
# llada-v-tiny

The tiny LLaDA-V model of lladav: two million parameters in bfloat16, in the layout of LLaDA-V, with its
tokenizer. It answers questions about images of one to three handwritten digits, about several of them and
about short videos, adds with written steps, answers as JSON, and calls tools. It knows nothing else.
`make demo` trains the published curriculum from its towers.

    make tiny-model         # trains it again: the recipe is conf/recipe/{recipe}.yaml
    python -m lladav.generate --image image.png "Which digits are in the picture?"

Exact match on held-out questions. No training image shows one of their digits, no training question has the
wordings of the type `reworded`, and only the validation half guided choices.

| question type | questions in each half | test half | validation half |
|---|---:|---:|---:|
{rows}

The digits are those of scikit-learn (`load_digits`, from the UCI repository, CC BY 4.0). License: Apache-2.0.
"""


def main(arguments: Sequence[str]) -> None:
    """Train and write the model; a user error is one line on stderr and exit code 2."""
    if HELP_FLAGS & set(arguments):
        print(__doc__)
        return
    with one_line_errors():
        settings = _settings(arguments)
        recipe, out, work = load_recipe(settings["recipe"]), Path(settings["out"]), Path(settings["work"])
        if out.exists():
            raise UserError(f"out={out}: already there; remove it or choose another folder")
        config = configured(work)
        prepare(Path(config.data.root))
        towers.build(config, recipe.towers)
        train(config, recipe, work)
        ship(config, work, out)
        by_split = evaluated(config, out)
        (out / CARD).write_text(card(by_split, settings["recipe"]), encoding="utf-8")
        report("\n".join(table(f"{out}, {split} half", found) for split, found in by_split.items()))


def _settings(arguments: Sequence[str]) -> dict[str, str]:
    given = key_values(arguments)
    for key in given:
        if key not in DEFAULTS:
            raise UserError(f"{key}: not a setting{choices_hint(key, DEFAULTS)}")
    return {**DEFAULTS, **given}


def configured(work: Path) -> Config:
    """Settings of the tiny model with its towers in the folder of the parts."""
    folders = [f"model.weights.{part.value}={work / TOWERS / part.value}" for part in towers.PARTS]
    return load(["stage=ov_vw", "model=tiny", "data=digits", *folders])


def train(config: Config, recipe: Recipe, work: Path) -> None:
    """Train the whole model from its towers, unless its weights exist."""
    from train.toy_towers.whole_model import train_in_processes

    if (work / WEIGHTS).is_dir():
        report(f"whole model    {work / WEIGHTS}  (kept)")
    else:
        train_in_processes(config, recipe, work)


def ship(config: Config, work: Path, out: Path) -> None:
    """Write the trained model in bfloat16."""
    import torch

    from lladav.checkpoint import export, open_model

    model = open_model(work / WEIGHTS, torch.bfloat16)
    export(model, config.model, out, tokenizer=config.model.tokenizer)


def evaluated(config: Config, weights: Path) -> dict[Split, dict[str, Score]]:
    """Scores of weights on both halves of the held-out questions, by type of question."""
    return {
        split: scores(answer_all(weights, config, stage_questions(config, split))["answers"])
        for split in (Split.test, Split.validation)
    }


def card(by_split: Mapping[Split, Mapping[str, Score]], recipe: str) -> str:
    """The model card in Markdown, with a row for each type of question."""
    halves = list(by_split.values())
    rows = [
        f"| {kind} | {halves[0][kind].questions} | {' | '.join(f'{h[kind].accuracy:.1%}' for h in halves)} |"
        for kind in halves[0]
    ]
    return CARD_TEXT.format(recipe=recipe, rows="\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
