"""Run an experiment of ``conf/experiment/``: train and measure its trials, write a table and a plot.

    python train/experiment.py experiment=masks
    python train/experiment.py experiment=refresh checkpoint=FOLDER experiment.split=validation
    python train/experiment.py experiment=masks experiment.grid.train.seed=[1,2,3] experiment.name=masks-seeds

experiment.KEY=VALUE  sets a key of the experiment's file, as in experiment.grid.data.fraction=[0.5,1.0]
checkpoint=FOLDER     measures these weights and trains nothing
decoding.KEY=VALUE    sets a decoding option, as in decoding.max_tokens=48
print=true            prints the commands of all trials and exits

Other arguments are settings of all trials, as in train/run.py. Writes results.json, table.md and plot.png to
<train.storage>/experiments/NAME and prints the table. Re-run the same command to resume: finished runs and
measurements are reused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from lladav.config.cli import HELP_FLAGS, one_line_errors  # noqa: E402 - the path comes first
from lladav.config.loader import CONF  # noqa: E402
from lladav.config.schema import Config, TrainConfig  # noqa: E402
from lladav.storage import is_uri  # noqa: E402
from train.experiments.definition import Experiment, experiment_names, load_experiment  # noqa: E402

PRINT = "print=true"


def main(arguments: Sequence[str]) -> None:
    """Run an experiment; a user error is one line on stderr and exit code 2."""
    if HELP_FLAGS & set(arguments):
        print(help_text())
        return
    with one_line_errors():
        experiment = load_experiment([each for each in arguments if each != PRINT])
        trials = experiment.trials()
        if PRINT in arguments:
            print("\n".join(describe(experiment)))
            return
        run(experiment, trials[0].config())


def help_text() -> str:
    """The text of this module, and the experiments with the first line of their files."""
    lines = [(__doc__ or "").strip(), "", "Experiments"]
    for name in experiment_names():
        first = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
        lines.append(f"  {name:<12}{first.lstrip('# ')}")
    return "\n".join(lines)


def describe(experiment: Experiment) -> list[str]:
    """A line for each trial: its name, and the command that trains it or the weights that are measured."""
    lines = []
    for trial in experiment.trials():
        command = " ".join(["python", "train/run.py", *trial.overrides])
        decoding = [f"decoding.{key}={value}" for key, value in trial.decoding.items()]
        what = f"checkpoint={trial.checkpoint}" if trial.checkpoint else command
        lines.append("  ".join([f"{trial.name}:", what, *decoding]))
    return lines


def run(experiment: Experiment, config: Config) -> None:
    """Execute the trials, write the files and print the table; exit with code 1 if a trial fails."""
    from train.experiments.execution import Execution  # imports ray and torch: after the settings are checked
    from train.experiments.kinds import kind_named
    from train.experiments.launcher import ray_launcher
    from train.experiments.results import PLOT, TABLE, measured, write_results
    from train.trainer.progress import report

    kind, folder = kind_named(experiment.kind), results_folder(experiment, config)
    kind.options_of(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    prepare_data(config)
    with ray_launcher(config.cluster, folder) as launcher:
        outcomes = Execution(experiment, kind, folder, launcher).run()
    write_results(folder, experiment, outcomes)
    if finished := measured(outcomes):
        table = kind.tables(finished)
        (folder / TABLE).write_text(f"{table}\n", encoding="utf-8")
        kind.draw(finished, folder / PLOT)
        report(f"\n{table}\n\nresults in {folder}")
    if failed := len(outcomes) - len(finished):
        report(f"{failed} of {len(outcomes)} trials failed; run the same command again to repeat them")
        raise SystemExit(1)


def results_folder(experiment: Experiment, config: Config) -> Path:
    """The local folder of the experiment's files."""
    storage = TrainConfig.storage if is_uri(config.train.storage) else config.train.storage
    return Path(storage).absolute() / "experiments" / experiment.name


def prepare_data(config: Config) -> None:
    """Write the built-in data set if the trials use it and it does not exist in this version."""
    from data.digits.preparation import update

    if config.data.name == "digits" and not is_uri(config.data.root):
        update(Path(config.data.root))


if __name__ == "__main__":
    main(sys.argv[1:])
