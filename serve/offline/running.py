"""Runs a batch from its settings to its last part."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ray.exceptions import RayError
from rich.console import Console

from lladav.cluster import connect
from lladav.config.schema import ClusterConfig
from lladav.storage import absolute, is_uri
from lladav.terminal import format_seconds
from serve.ingress import check_ingress
from serve.offline.identity import check, identity, kept_columns, output_format
from serve.offline.inputs.forms import BatchInput, open_input
from serve.offline.output import OutputFolder, RowCounts
from serve.offline.parts import PartWriter
from serve.offline.pipeline import answers, unanswered
from serve.offline.progress import BatchProgress
from serve.offline.results import ResultForm, form_of
from serve.offline.settings import BatchSettings
from serve.starting import GPU_SETTING, check_checkpoint, user_error_in, with_absolute_paths


@dataclass(frozen=True)
class BatchSummary:
    """What a run has done."""

    counts: RowCounts
    """Of all rows of the output."""
    answered: int
    """Rows that this run has answered."""
    seconds: float
    """Duration of this run, start of Ray and of engines included."""

    @property
    def line(self) -> str:
        """One line for the terminal."""
        counts = self.counts
        now = f"{self.answered:,} of them now, in {format_seconds(self.seconds)}"
        return f"{counts.rows:,} rows, {counts.failed:,} with an error, {counts.tokens:,} tokens; {now}"


def run_batch(settings: BatchSettings, console: Console) -> BatchSummary:
    """Answer the rows that have no answer yet; raises ``UserError`` before any work for a mistake."""
    begin, source = time.monotonic(), open_input(settings.input)
    settings = with_absolute_paths(settings)
    check(settings, source)
    if not is_uri(settings.model):
        check_checkpoint(settings)
        check_ingress(settings)
    folder, output = OutputFolder(settings.output), output_format(settings, source)
    with folder.claimed():
        folder.bind(identity(settings, source, output))
        done, before = folder.committed(source.rows)
        with BatchProgress(source.rows, before, console) as progress:
            if not done.all():
                form = form_of(output, kept_columns(settings, source))
                writer = PartWriter(folder, form, settings, output, done)
                _answer(settings, source, form, writer, progress)
    return BatchSummary(progress.counts, progress.counts.rows - before.rows, time.monotonic() - begin)


def _answer(
    settings: BatchSettings, source: BatchInput, form: ResultForm, writer: PartWriter, progress: BatchProgress
) -> None:
    """Answer and write all rows that are not done; those that have an answer are written in any case."""
    engine, root = settings.engine, settings.media_root or str(source.root)
    cluster = ClusterConfig(
        name="batch",
        address=settings.address,
        workers=engine.max_replicas,
        min_workers=max(1, engine.min_replicas),
        cpus_per_worker=engine.cpus,
        gpus_per_worker=engine.gpus,
    )
    shards = unanswered(source.form, source.shards, writer.done)
    with connect(cluster, GPU_SETTING):
        try:
            for table in answers(shards, settings, absolute(root), form):
                progress.add(writer.add(table))
        except RayError as error:
            raise user_error_in(str(error)) or error from None
        finally:
            writer.commit()
    if not writer.done.all():
        raise RuntimeError(f"{int((~writer.done).sum())} rows have no result; run the command again")
