"""Settings: layers and their order, error lines, saving, documentation, and comparison on resuming."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from lladav.config import loader as config
from lladav.config.comparison import NON_SEMANTIC_KEYS, check_unchanged, differences
from lladav.config.introspection import all_keys, kind_of
from lladav.config.schema import Attention, Config, ModelPart, Precision, Prediction
from lladav.errors import UserError

SMALL = [
    "model.language={vocab_size: 256, width: 128, heads: 4, kv_heads: 4, max_positions: 16384}",
    "model.vision={image_size: 48, patch_size: 8, width: 64, layers: 5, heads: 4}",
    "model.tokens={mask: 242, bos: 240, eos: 241, start_header: 243, end_header: 244, eot: 245}",
]

MISTAKES = {
    "stage=vww": "stage=vww: no such stage; did you mean vw? (choices: ",
    "model=gpt": "model=gpt: no such model (choices: ",
    "train.max_stepz=50": "train.max_stepz: unknown key; did you mean train.max_steps?",
    "max_steps=50": "max_steps: unknown key; did you mean train.max_steps?",
    "stag=vw": "stag: unknown key; did you mean stage?",
    "nonsense.of.mine=1": "nonsense: unknown key; --help lists them all",
    "stage.lr.languag=1": "stage.lr.languag: unknown key; did you mean stage.lr.language?",
    "stage.suffixes.si.txt=a": "stage.suffixes.si.txt: unknown key; did you mean stage.suffixes.<name>.text?",
    "train.seed.more=1": "train.seed.more: unknown key; did you mean train.seed?",
    "data.rescale.si.epoch=2": "data.rescale.si: stage.epoch: unknown key; did you mean stage.epochs?",
    "train.max_steps=many": "train.max_steps=many: must be a whole number or null",
    "train.max_steps=1.5": "train.max_steps=1.5: must be a whole number or null",
    "train.micro_batch=": "train.micro_batch=null: must be a whole number",
    "train.betas=[a,b]": "train.betas=a: must be a list of numbers",
    "train.precision=bf17": "train.precision=bf17: no such choice; did you mean bf16? (choices: ",
    "stage.trained=[head]": "stage.trained=head: no such choice (choices: language, projector, vision)",
    "stage.trained=vision": "stage.trained=vision: must be a list, as in stage.trained=[vision]",
    "stage.lr=1e-5": "stage.lr=1e-05: a section, not a value; set a key of it, as in stage.lr.language=...",
    "train=null": "train=null: a section, not a value; set a key of it, as in train.run=...",
    "train.run=[": "train.run=[: not a YAML value; quote it",
    "train.run=${nowhere}": "train.run=${nowhere}: refers to no key; ",
    "--stage=vw": "--stage=vw: not a setting; write key=value, as in train.max_steps=50",
    "vw": "vw: not a setting; write key=value, as in train.max_steps=50",
    "a..b=1": "a..b=1: not a setting; write key=value, as in train.max_steps=50",
    "data.sources.mine.format=json": "data.sources.mine.annotations: needs a value; ",
    "stage.trained=[]": "stage.trained=[]: nothing would learn; name some of language, projector, vision",
    "stage.trained=[vision,vision]": "stage.trained=[vision,vision]: names a part twice; name each once",
    "train.adapter=lora": "train.adapter=lora: stage.trained=[projector] has no tower; add language or ",
    "train.adapter=lors": "train.adapter=lors: no such choice; did you mean lora? (choices: lora)",
    "train.lora.targets=[q]": "train.lora.targets=q: no such choice",
    "stage.sources=[]": "stage.sources=[]: stage pretrain has no data; name some of ",
    "stage.sources=[mammoth_s]": "stage.sources=[mammoth_s]: data digits has no mammoth_s; did you mean ",
    "stage.suffixes.ov.text=a": "stage.suffixes.ov: not a source of this stage; add it to ",
    "stage.suffixes.llava_pretrain={text: a, probability: 2}": (
        "stage.suffixes.llava_pretrain.probability=2.0: must be a fraction from 0 to 1"
    ),
    "objective.min_mask_ratio=0": "objective.min_mask_ratio=0.0: must be above 0",
    "objective.min_mask_ratio=2": "objective.min_mask_ratio=2.0: must be a fraction from 0 to 1",
    "objective.kind=next_token": "objective.kind=next_token: needs model.attention=causal, not bidirectional",
    "model.prediction=next_token": (
        "model.prediction=next_token: contradicts objective.kind=masked; set objective.kind=next_token"
    ),
    "model.tokens.mask=null": "model.tokens.mask=null: objective.kind=masked needs a mask token; set its id",
    "train.seed=-1": "train.seed=-1: must be 0 or more",
    "stage.lr.projector=0": "stage.lr.projector=0.0: must be above 0",
    "stage.lr.projector=nan": "stage.lr.projector=nan: must be above 0",
    "train.weight_decay=-1": "train.weight_decay=-1.0: must be 0 or more",
    "data.bad_sample_budget=2": "data.bad_sample_budget=2.0: must be a fraction from 0 to 1",
    "train.betas=[0.9]": "train.betas=[0.9]: must be two numbers from 0 to below 1, as in [0.9,0.999]",
    "cluster.min_workers=0": "cluster.min_workers=0: must be from 1 to cluster.workers=1",
    "cluster.min_workers=2": "cluster.min_workers=2: must be from 1 to cluster.workers=1",
    "cluster.resize_seconds=0": "cluster.resize_seconds=0.0: must be above 0",
    "train.run=a/b": "train.run=a/b: part of a folder's name; use letters, digits and . _ + -",
    "data.name=../x": "data.name=../x: part of a folder's name; use letters, digits and . _ + -",
    "model.name=a/b": "model.name=a/b: part of a folder's name; use letters, digits and . _ + -",
    "stage.name=.": "stage.name=.: part of a folder's name; use letters, digits and . _ + -",
    "stage.starts_from=../si": "stage.starts_from=../si: part of a folder's name; use letters, ",
    f"train.run={'x' * 81}": f"train.run={'x' * 81}: part of a folder's name; use at most 80 bytes",
    f"train.seed={2**63}": f"train.seed={2**63}: must be at most {2**63 - 1}",
    "train.betas=[[1],[2]]": "train.betas=[[1], [2]]: must be a list of numbers",
    "stage.sources=[{}]": "stage.sources=[{}]: must be a list of text",
    "train.warmup_ratio={}": "train.warmup_ratio={}: must be a number",
    "train.run='\ud83d'": "train.run='\\ud83d': not a YAML value; quote it",
    "model=\n": "model=\\n: no such model (choices: ",
    "stage.max_length=99999": "stage.max_length=99999: must not be above model.language.max_positions=16384",
    "model.language.heads=3": "model.language.width=128: must be an even number for each of ",
    "model.language.kv_heads=3": "model.language.kv_heads=3: must divide model.language.heads=4",
    "model.vision.heads=3": "model.vision.width=64: must be a multiple of model.vision.heads=3",
    "model.vision.patch_size=49": "model.vision.patch_size=49: must not be above model.vision.image_size=48",
    "model.vision.feature_layer=-6": "model.vision.feature_layer=-6: must be from -5 to -1",
    "model.images.frame_side=7": "model.images.frame_side=7: a view has 6 x 6 patches; set at most 6",
    "model.tokens.mask=256": "model.tokens.mask=256: must be below model.language.vocab_size=256",
    "model.tokens.eos=240": "model.tokens.eos=240: also the id of model.tokens.bos; each needs its own",
    "data.validation.share=1": "data.validation.share=1.0: leaves nothing to train on; set a smaller part",
    "data.validation.sources=[x]": "data.validation.sources=[x]: data digits has no x (choices: ",
    "data.validation.questions=3": "data.validation.questions=3: set data.validation.share, too",
    "train.patience=2": "train.patience=2: needs validations; set data.validation.share",
    "train.trackers=[comet]": "train.trackers=comet: no such choice (choices: tensorboard, wandb, mlflow)",
}


@pytest.mark.parametrize(("override", "message"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_gets_one_line_with_the_fix(override: str, message: str):
    with pytest.raises(UserError) as caught:
        config.load([*SMALL, override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "fix"),
    [
        (["train.micro_batch=6", "cluster.workers=2"], "set train.micro_batch=4"),
        (["train.micro_batch=1", "cluster.workers=3"], "set stage.global_batch=33 or other workers"),
        (["train.micro_batch=1", "cluster.workers=3", "cluster.min_workers=2"], "or other workers"),
    ],
)
def test_a_global_batch_that_does_not_divide_gets_a_valid_suggestion(overrides: list[str], fix: str):
    with pytest.raises(UserError) as caught:
        config.load(["stage.global_batch=32", *overrides])
    assert str(caught.value).startswith("stage.global_batch=32: not a multiple of train.micro_batch=")
    assert str(caught.value).endswith(fix)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stage.starts_from=null"],
            "train.adapter=lora: an adapter belongs to a whole model, and stage si ",
        ),
        (["train.lora.targets=[fc1]"], "train.lora.targets=[fc1]: none is in language; add some of q_proj, "),
        (["train.adapter=null", "train.lora.rank=8"], "train.lora.rank=8: has no effect; set train.adapter="),
        (
            ["stage.trained=[vision]", "train.lora.vocabulary=true"],
            "train.lora.vocabulary=true: has no effect; add language to stage.trained",
        ),
    ],
)
def test_adapters_that_cannot_be_trained_are_refused(overrides: list[str], message: str):
    with pytest.raises(UserError) as caught:
        config.load(["stage=si", "train.adapter=lora", *overrides])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.validation.share=0.1", "data.validation.sources=[descriptions]"],
            "is set, too; set one of them",
        ),
        (
            ["stage=vw", "data.validation.sources=[visualwebinstruct]"],
            "train and validate on different records",
        ),
    ],
)
def test_contradicting_samples_of_validations_are_refused(overrides: list[str], message: str):
    with pytest.raises(UserError, match=message):
        config.load(overrides)


def test_the_projector_has_no_adapter():
    loaded = config.load(["stage=si", "train.adapter=lora"])
    assert loaded.adapted == [ModelPart.language, ModelPart.vision]
    assert loaded.trained_in_full == [ModelPart.projector]
    assert config.load(["stage=si"]).adapted == []


def test_the_global_batch_need_not_be_divisible_by_fewer_workers():
    loaded = config.load(["stage.global_batch=32", "cluster.workers=4", "cluster.min_workers=1"])
    assert (loaded.cluster.min_workers, loaded.cluster.workers) == (1, 4)


@pytest.mark.parametrize(
    ("override", "without"),
    [("stratified=true", "false"), ("min_mask_ratio=0.5", "0.001"), ("block_length=8", "null")],
)
def test_settings_of_masking_are_refused_without_masking(override: str, without: str):
    name, value = override.split("=")
    line = (
        f"objective.{name}={value}: objective.kind=next_token masks nothing; set objective.{name}={without}"
    )
    with pytest.raises(UserError) as caught:
        config.load(["model=tiny_ar", f"objective.{override}"])
    assert str(caught.value) == line


def test_allowing_eos_is_refused_where_it_is_always_allowed():
    with pytest.raises(UserError, match=r"model\.allow_eos=true: .*always writes EOS; leave it out"):
        config.load(["model=tiny_ar", "model.allow_eos=true"])


def test_the_prediction_of_the_model_follows_the_objective():
    assert config.load(["model=tiny_ar"]).model.prediction is Prediction.next_token
    masked = config.load(["model=tiny_ar", "objective.kind=masked"])
    assert (masked.model.prediction, masked.model.attention) == (Prediction.masked, Attention.causal)


def test_settings_saved_before_there_was_a_kind_of_objective_load_as_masked(tmp_path: Path):
    started = config.load(["stage=vw"])
    lines = config.to_yaml(started).splitlines()
    before = [line for line in lines if line.split(":")[0].strip() not in ("kind", "prediction")]
    assert len(before) == len(lines) - 2
    (tmp_path / "config.yaml").write_text("\n".join(before))
    assert config.load_saved(tmp_path / "config.yaml") == started
    check_unchanged("before", config.load_saved(tmp_path / "config.yaml"), started)


def test_the_command_line_overrides_data_rescale_and_that_overrides_the_stage():
    rescale = "data.rescale.vw={global_batch: 64, lr: {vision: 3e-4}}"
    rescaled = config.load(["stage=vw", rescale])
    assert (rescaled.stage.global_batch, rescaled.stage.lr.vision) == (64, 3e-4)
    explicit = config.load(["stage=vw", rescale, "stage.global_batch=96"])
    assert (explicit.stage.global_batch, explicit.stage.lr.vision) == (96, 3e-4)
    assert config.load(["stage=ov", rescale]).stage.lr.vision != 3e-4


def test_values_are_converted_to_the_types_of_the_schema():
    loaded = config.load(["train.max_steps=50", "stage.trained=[vision]", "train.eps=1e-6", "train.run=7"])
    assert (loaded.train.max_steps, loaded.train.eps, loaded.train.run) == (50, 1e-6, "7")
    assert loaded.stage.trained == [ModelPart.vision]
    assert isinstance(loaded.train.precision, Precision)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, root: Path):
    conf = tmp_path / "conf"
    for file in (root / "conf").rglob("*.yaml"):
        copy = conf / file.relative_to(root / "conf")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (conf / "stage" / "mine.yaml").write_text("stage:\n  name: mine\n  max_lenght: 3\n")
    (conf / "stage" / "torn.yaml").write_text("stage: [\n")
    with pytest.raises(UserError, match=r"^conf/stage/mine.yaml: stage.max_lenght: unknown key; did you"):
        config.load(["stage=mine"], conf)
    with pytest.raises(UserError, match=r"torn.yaml: not YAML"):
        config.load(["stage=torn"], conf)


def test_settings_round_trip_through_a_file(tmp_path: Path):
    started = config.load(["stage=ov_vw", "model=llada_v_8b", "data=llava", "train.max_steps=3"])
    config.save(started, tmp_path / "config.yaml")
    assert config.load_saved(tmp_path / "config.yaml") == started
    with pytest.raises(UserError, match="cannot be read"):
        config.load_saved(tmp_path / "other.yaml")


def test_stage_all_expands_to_the_curriculum():
    assert config.expand_stages(["stage=all", "model=tiny"]) == [
        [f"stage={s}", "model=tiny"] for s in config.curriculum()
    ]
    assert config.expand_stages(["stage=vw", "train.run=a"]) == [["stage=vw", "train.run=a"]]
    with pytest.raises(UserError, match=r"train\.run: names a single run"):
        config.expand_stages(["stage=all", "train.run=a"])
    with pytest.raises(UserError, match=r"^stage=all stage=vw: not both; leave one out$"):
        config.expand_stages(["stage=vw", "stage=all"])


def test_a_run_is_named_after_stage_model_and_data_unless_it_has_a_name():
    named = config.load(["stage=vw", "train.run=mine"])
    assert config.run_name(config.load(["stage=vw"])) == "vw-tiny-digits"
    assert config.run_name(named) == "mine"
    assert config.run_name(named, stage="ov") == "ov-tiny-digits"


# Changes that a run may resume with.

NON_SEMANTIC = [
    "cluster.workers=2", "train.micro_batch=2", "train.storage=elsewhere", "train.run=other", "data.tasks=3",
    "train.log_every=7", "train.checkpoint_every=3", "data.prefetch=9", "data.root=elsewhere",
    "train.loss_chunk=8", "cluster=kuberay", "data.sources.mammoth_si.annotations=unused.json",
    "model.tokenizer=moved", "model.allow_eos=true",
]  # fmt: skip
SEMANTIC = [
    "stage=si", "model=llada_v_8b", "data=llava", "stage.lr.projector=1e-4", "stage.global_batch=16",
    "stage.max_length=512", "stage.trained=[vision]", "train.seed=1", "train.max_steps=5",
    "train.betas=[0.9,0.95]", "train.precision=bf16", "objective.eos_tail=1", "model.attention=causal",
    "model.images.grid=2", "data.sources.llava_pretrain.annotations=other.json", "train.init=elsewhere",
    "train.warmup_ratio=0.1", "data.validation.share=0.1", "train.validate_every=7",
]  # fmt: skip


@pytest.mark.parametrize("override", NON_SEMANTIC)
def test_a_change_of_paths_speed_or_memory_is_no_difference(override: str):
    assert not differences(config.load(), config.load([override]))


@pytest.mark.parametrize("override", SEMANTIC)
def test_a_change_of_what_a_run_computes_is_a_difference(override: str):
    assert differences(config.load(), config.load([override]))


def test_the_non_semantic_keys():
    """Runs resume by this set: a key that joins or leaves it changes which runs can be resumed."""
    assert set(NON_SEMANTIC_KEYS) == {
        "stage.samples", "stage.ablation", "model.images.inference_frames", "model.tokenizer", "data.root",
        "model.allow_eos", "data.rescale", "data.bad_sample_budget", "data.tasks", "data.prefetch",
        "cluster", "train.run", "train.storage", "train.scratch", "train.micro_batch",
        "train.activation_checkpointing",
        "train.loss_chunk", "train.persistence_threshold", "train.checkpoint_every",
        "train.keep_checkpoints", "train.log_every", "train.trackers",
    }  # fmt: skip


def test_every_key_is_documented():
    assert not [key.path for key in all_keys() if not key.doc]


def test_a_semantic_change_is_refused_by_key():
    started, now = config.load(["stage=vw"]), config.load(["stage=vw", "stage.lr.language=2e-5"])
    check_unchanged("mine", started, config.load(["stage=vw", "cluster.workers=2"]))
    with pytest.raises(UserError) as caught:
        check_unchanged("mine", started, now)
    was = started.stage.lr.language
    assert str(caught.value) == (
        f"run mine was started with stage.lr.language={was}, now 2e-05; "
        "take the old value or train.run=<new name>"
    )


def test_a_refusal_names_further_keys():
    with pytest.raises(UserError, match=r"was started with stage\.name=.* \(and stage\.starts_from, "):
        check_unchanged("mine", config.load(["stage=vw"]), config.load(["stage=ov"]))


# Entry points.


def entry(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from lladav.config import cli; print(len(cli.main_arguments(sys.argv[1:], 'Trains.')))"
    )
    command = [sys.executable, "-c", program, *arguments]
    environment = {"PYTHONPATH": str(root / "platform"), "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)


def test_a_command_reports_a_mistake_in_one_line_with_code_2(root: Path):
    done = entry(root, "stage=vww")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: stage=vww: no such stage; did you mean vw?")
    assert done.stderr.count("\n") == 1


def test_help_lists_every_choice_and_every_key(root: Path):
    done = entry(root, "--help", "stage=vw")
    assert done.returncode == 0
    assert done.stdout.startswith("Trains.\n")
    assert all(key.path in done.stdout for key in all_keys())
    assert all(name in done.stdout for group in config.GROUPS for name in config.group_choices(group))
    assert "train.seed=42" in done.stdout
    assert "Of the order of samples, the noise and new weights." in done.stdout


def test_print_shows_the_resolved_settings(root: Path, tmp_path: Path):
    done = entry(root, "stage=vw", "print=true", "train.max_steps=3")
    (tmp_path / "printed.yaml").write_text(done.stdout)
    assert config.load_saved(tmp_path / "printed.yaml") == config.load(["stage=vw", "train.max_steps=3"])


def test_a_command_gets_a_config_for_each_stage(root: Path):
    assert entry(root, "stage=all").stdout == "5\n"
    assert entry(root, "stage=vw").stdout == "1\n"


def test_settings_load_without_torch_or_ray(root: Path):
    program = (
        "from lladav.config.loader import load; load(); import sys; print({'torch', 'ray'} & {*sys.modules})"
    )
    environment = {"PYTHONPATH": str(root / "platform")}
    command = [sys.executable, "-c", program]
    assert (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


def test_the_schema_has_a_default_for_every_key():
    assert isinstance(Config(), Config)
    assert dataclasses.is_dataclass(kind_of("train"))
