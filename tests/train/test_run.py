"""``print=true`` shows the samples of each source as comments in front of the settings."""

from __future__ import annotations

import pytest
import yaml

from data.manifest.manifest import open_manifest
from lladav.config.loader import load
from tests.digits import shared_digits
from train.run import main


def test_the_samples_of_each_source_are_printed_once_they_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    digits = shared_digits()
    part = [
        "data.fraction=0.5",
        "data.sources.mammoth_ov.sample=first:40%",
        "data.sources.mammoth_ov.repeat=1.5",
    ]
    arguments = ["stage=ov_vw", f"data.root={digits}", f"model.tokenizer={digits}/tokenizer", *part]
    open_manifest(load(arguments))
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "print=true"])
    printed = capsys.readouterr().out
    assert not ended.value.code
    assert printed.splitlines()[:2] == [
        "# mammoth_ov: 10 of 50 samples x 1.5 = 15, 38% of an epoch (first:40%, fraction 0.5)",
        "# visualwebinstruct: 25 of 50 samples, 62% of an epoch (all, fraction 0.5)",
    ]
    assert yaml.safe_load(printed)["data"]["fraction"] == 0.5


def test_missing_data_do_not_keep_the_settings_from_being_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["stage=si", "data.root=/nowhere", "print=true"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("# data.sources.mammoth_si.annotations=")
    assert "no such file under /nowhere" in first
    assert rest[0] == "stage:"


def test_the_memory_of_a_gpu_is_printed_for_a_run_on_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stage=si", "data.root=/nowhere", "print=true", "cluster.gpus_per_worker=1"]
    with pytest.raises(SystemExit):
        main(arguments)
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith("# memory of each GPU: about 0.1 GiB (weights 0.0, training state 0.0, ")
