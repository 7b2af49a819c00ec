"""The schema of every setting, as one tree of dataclasses.

A key that is not here does not exist: YAML files under ``conf/`` and the command line only set values. A new
key is one field here: ``setting`` declares the values that it accepts and whether a run depends on it, and
the text below the field documents it. The resolved tree is saved with each checkpoint and suffices to rebuild
the model and to repeat the run. The keys of ``train`` are in ``train_schema.py``.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from lladav.config.choices import AdapterKind as AdapterKind
from lladav.config.choices import (
    Attention,
    ImageMode,
    MissingMark,
    ModelPart,
    Pixels,
    Prediction,
    SourceFormat,
    Supervise,
    Template,
)
from lladav.config.choices import LoraTarget as LoraTarget
from lladav.config.choices import Precision as Precision
from lladav.config.choices import TrackerKind as TrackerKind
from lladav.config.setting import setting
from lladav.config.train_schema import LoraConfig as LoraConfig
from lladav.config.train_schema import TrainConfig

RELEASED = "released"
"""The value of ``stage.starts_from`` for the published whole model. Such a stage is not in ``stage=all``."""


@dataclass
class LanguageConfig:
    """The language tower; the defaults are LLaDA-8B."""

    vocab_size: int = setting(126464, above=0)
    """Rows of the token embedding and of the vocabulary head."""
    width: int = setting(4096, above=0)
    """Size of a hidden state."""
    mlp_width: int = setting(12288, above=0)
    """Size of the hidden layer of each MLP."""
    layers: int = setting(32, above=0)
    """Transformer layers."""
    heads: int = setting(32, above=0)
    """Attention heads of a layer."""
    kv_heads: int = setting(32, above=0)
    """Key and value heads of a layer; fewer than ``heads`` is grouped-query attention."""
    rope_theta: float = setting(500000.0, above=0)
    """Base of the rotary position embedding's frequencies."""
    norm_eps: float = setting(1e-5, above=0)
    """Added to the mean square in RMSNorm."""
    max_positions: int = setting(16384, above=0)
    """Longest sequence in tokens, visual tokens included."""


@dataclass
class VisionConfig:
    """The vision tower; the defaults are siglip2-so400m-patch14-384."""

    image_size: int = setting(384, above=0)
    """Side of a view (and of a tile) in pixels."""
    patch_size: int = setting(14, above=0)
    """Side of a patch in pixels."""
    width: int = setting(1152, above=0)
    """Size of a hidden state."""
    mlp_width: int = setting(4304, above=0)
    """Size of the hidden layer of each MLP."""
    layers: int = setting(27, above=0)
    """Layers of the published tower; only those up to ``feature_layer`` are built and run."""
    heads: int = setting(16, above=0)
    """Attention heads of a layer."""
    feature_layer: int = -2
    """Hidden state that becomes the visual tokens; -1: of the last layer, -2: of the one before."""
    norm_eps: float = setting(1e-6, above=0)
    """Added to the variance in LayerNorm."""


@dataclass
class TokenIds:
    """Ids of special tokens in the vocabulary by role; the defaults and the names below are LLaDA's."""

    mask: int | None = 126336
    """``<|mdm_mask|>``, a masked position; null: a model without masked positions."""
    bos: int = 126080
    """``<|startoftext|>``, the first token of a sample."""
    eos: int = 126081
    """``<|endoftext|>``, fills the canvas behind an answer."""
    start_header: int = 126346
    """``<|start_header_id|>``, in front of the role of a turn."""
    end_header: int = 126347
    """``<|end_header_id|>``, behind the role of a turn."""
    eot: int = 126348
    """``<|eot_id|>``, the end of a turn."""

    @property
    def mask_id(self) -> int:
        """``mask`` of a model that predicts masked positions, which always has one."""
        assert self.mask is not None
        return self.mask


@dataclass
class ImagesConfig:
    """Tiling of images and sampling of videos."""

    grid: int = setting(6, above=0)
    """A tiled image has at most ``grid`` x ``grid`` tiles."""
    shrink_above_views: int = setting(4, above=0)
    """The merged features of an image are shrunk to about this many views (``anyres_max_4``)."""
    pixels: Pixels = Pixels.displayed
    """How image files become RGB; a part of the model, so that serving converts as training did."""
    max_frames: int = setting(32, above=0)
    """Most frames of a video in training; a longer video is sampled evenly."""
    frames_per_second: float = setting(1.0, above=0)
    """Rate at which training samples a video."""
    folder_frames: int = setting(10, above=0)
    """Frames that training takes of a video stored as a folder of frames, evenly spread."""
    inference_frames: int = setting(32, above=0, non_semantic="read by inference only")
    """Most frames that inference takes of a video, evenly spread."""
    frame_side: int = setting(14, above=0)
    """The features of a video frame are pooled to this many rows and columns."""
    newline_per_frame_row: bool = True
    """A newline after each row of a frame; false: a single newline after the video."""


@dataclass
class WeightsConfig:
    """Folders, files, URIs or hub ids in a released layout that training starts from."""

    language: str | None = None
    """LLaDA-8B-Instruct as published, or its renamed form; Llama 3 for ``objective.kind: next_token``."""
    vision: str | None = None
    """SigLIP2 as published."""
    llada_v: str | None = None
    """A whole LLaDA-V or LLaMA3-V checkpoint; it replaces the other two."""
    released: str | None = None
    """The published whole model, for stages with ``starts_from: released``; other stages ignore it."""


@dataclass
class ModelConfig:
    """Towers, projector and tokenizer."""

    name: str = setting(is_file_name=True)
    """Name of the model in the names of runs."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    tokens: TokenIds = field(default_factory=TokenIds)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    attention: Attention = Attention.bidirectional
    prediction: Prediction = Prediction.masked
    """What a hidden state predicts; it follows ``objective.kind`` and is saved with the weights."""
    allow_eos: bool = setting(False, non_semantic="read by inference only")
    """Whether an answer may contain EOS, which ends it as eot does; for a model that learned EOS behind its
    answers (``objective.eos_tail``). False, as released: EOS is never written. Saved with the weights."""
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    tokenizer: str = setting(non_semantic="a path; model.tokens says what the tokenizer must contain")
    """Folder, URI or hub id of ``tokenizer.json``; by default that of the weights: of ``weights.released`` if
    the stage starts from it, else of ``weights.language``."""


@dataclass
class LearningRates:
    """Peak learning rate of each part; a part that is not trained ignores its rate."""

    language: float = setting(1e-5, above=0)
    """Of the language tower and the newline vector."""
    projector: float = setting(1e-5, above=0)
    """Of the projector."""
    vision: float = setting(2e-6, above=0)
    """Of the vision tower."""


@dataclass
class Suffix:
    """Text appended to every human turn of a record, for a random part of the records."""

    text: str = MISSING
    """The appended text."""
    probability: float = setting(1.0, minimum=0, maximum=1)
    """Fraction of the records that get the text."""


@dataclass
class StageConfig:
    """A stage of the curriculum; the defaults are those that most stages of the paper's Table 6 share."""

    name: str = setting(is_file_name=True)
    """Name of the stage, and of its file in ``conf/stage``."""
    starts_from: str | None = setting(None, is_file_name=True)
    """The stage whose last checkpoint this stage starts from; null: the published towers; ``released``: the
    published whole model, ``model.weights.released``."""
    trained: list[ModelPart] = field(
        default_factory=lambda: [ModelPart.language, ModelPart.projector, ModelPart.vision]
    )
    """Parts that are trained; the others are frozen."""
    lr: LearningRates = field(default_factory=LearningRates)
    global_batch: int = setting(256, above=0)
    """Samples of one optimizer step, over all workers."""
    max_length: int = setting(8192, above=0)
    """Longer samples are cut to this many tokens, visual tokens included."""
    epochs: int = setting(1, above=0)
    """Passes over the sources."""
    images: ImageMode = ImageMode.tiled
    template: Template = Template.chat
    sources: list[str] = field(default_factory=list)
    """Names in ``data.sources`` that the stage trains on."""
    suffixes: dict[str, Suffix] = field(default_factory=dict)
    """By source: text appended to its human turns."""
    samples: int | None = setting(None, non_semantic="a note about the published data")
    """Size of the published data set; a note without effect."""
    ablation: bool = setting(False, non_semantic="decides only what stage=all runs")
    """An ablation of the paper: ``stage=all`` skips it."""

    @property
    def previous(self) -> str | None:
        """The stage that has to run before; None if this one starts from published weights."""
        return None if self.starts_from == RELEASED else self.starts_from


@dataclass
class ObjectiveConfig:
    """The training loss; the defaults are the masked-diffusion loss as released.

    ``stratified``, ``min_mask_ratio`` and ``block_length`` belong to ``kind: masked``.
    """

    kind: Prediction = Prediction.masked
    supervise: Supervise = Supervise.template
    stratified: bool = False
    """Spread the noise levels of a global batch evenly over [0, 1) instead of drawing them independently."""
    eos_tail: int = setting(0, minimum=0)
    """Supervise up to this many EOS behind the last eot, drawn by sample (the released data has none)."""
    min_mask_ratio: float = setting(1e-3, above=0, maximum=1)
    """Mask ratio at noise level 0, which keeps the weight of a masked position finite."""
    block_length: int | None = setting(None, above=0)
    """Mask one block of this many tokens per answer, as in semi-autoregressive decoding; half of the blocks
    of long answers start anywhere. Null: mask whole answers."""


@dataclass
class SourceConfig:
    """One data set on disk."""

    format: SourceFormat = MISSING
    annotations: str = MISSING
    """File or glob of the records."""
    media: str | None = None
    """Folder, tar or zip (or a glob of them) with the images and videos; null: embedded in the records."""
    sample: str | None = None
    """Samples to train on: first:N, end:N or random:N, with N a number or a percentage, as in random:10%;
    null: all. Random ones depend on ``train.seed``."""
    repeat: float = setting(1.0, above=0)
    """How often an epoch has each of these samples: 2.5 is twice, and a third time for a random half of them;
    a number below 1 takes a random part. Copies of a sample have different noise."""


@dataclass
class ValidationConfig:
    """The samples of validations during training. Without a ``share`` and ``sources`` there are none."""

    share: float = setting(0.0, minimum=0, maximum=1)
    """Part of the records of each source that is held out from training. A hash of a record's place in its
    source decides, whatever ``train.seed`` is."""
    sources: list[str] = field(default_factory=list)
    """Names in ``data.sources`` that are read for validation alone; instead of ``share``."""
    samples: int = setting(256, above=0)
    """Most samples of a validation."""
    draws: int = setting(1, above=0)
    """Noise levels of each sample, evenly spread; more of them give a less noisy loss and take longer."""
    questions: int = setting(0, minimum=0)
    """Samples whose first question each validation answers, besides the loss."""
    answer_tokens: int = setting(64, above=0)
    """Longest of these answers; a token takes a forward pass of all questions."""


@dataclass
class DataConfig:
    """The available data sets and how they are read."""

    name: str = setting(is_file_name=True)
    """Name of the data sets in the names of runs; by default that of the file in ``conf/data``."""
    root: str = setting(non_semantic="a path")
    """Folder or URI that relative paths of the sources start from."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Data sets by name."""
    fraction: float = setting(1.0, above=0, maximum=1)
    """Random part of the samples of each source to train on, after ``sources.<name>.sample``. With the same
    ``train.seed`` a smaller part is a subset of a larger one."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    rescale: dict[str, Any] = setting(factory=dict, non_semantic="already applied to the stage")
    """By stage: keys of ``stage`` with other values for data sets of this size (batch, rates, lengths)."""
    bad_sample_budget: float = setting(
        0.001, minimum=0, maximum=1, non_semantic="decides only when a run gives up"
    )
    """Fraction of the records that may be quarantined before the run stops."""
    missing_mark: MissingMark = MissingMark.reject
    tasks: int = setting(0, minimum=0, non_semantic="affects speed only")
    """Concurrent preprocessing tasks for each worker; 0 lets Ray Data decide."""
    prefetch: int = setting(4, above=0, non_semantic="affects speed only")
    """Micro-batches that are prepared ahead for each worker."""


@dataclass
class ClusterConfig:
    """Where a run happens and which resources it takes."""

    name: str = MISSING
    """Name of the cluster, and of its file in ``conf/cluster``."""
    address: str | None = None
    """Ray address; null: the cluster that runs this job, or a local one."""
    workers: int = setting(1, above=0)
    """Data-parallel training workers."""
    min_workers: int | None = None
    """Fewest workers that a run continues with when nodes are lost; null: exactly ``workers``."""
    resize_seconds: float = setting(60.0, above=0)
    """With ``min_workers``: seconds between checks for room for more workers. Adding workers restarts from
    the last checkpoint."""
    cpus_per_worker: float = setting(1.0, minimum=0)
    """CPU cores that Ray reserves for a worker."""
    gpus_per_worker: float = setting(0.0, minimum=0)
    """GPUs that Ray reserves for a worker."""
    threads_per_worker: int = setting(0, minimum=0)
    """torch threads of a worker; 0: torch decides."""
    max_failures: int = setting(3, minimum=0)
    """Consecutive restarts of the workers before the run gives up; a new checkpoint resets the count."""


@dataclass
class Config:
    """Every setting of a run."""

    stage: StageConfig = field(default_factory=StageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cluster: ClusterConfig = setting(
        factory=ClusterConfig, non_semantic="says where a run happens, not what it computes"
    )
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def adapted(self) -> list[ModelPart]:
        """The trained towers whose own weights are frozen and that learn through adapters."""
        towers = [part for part in self.stage.trained if part is not ModelPart.projector]
        return towers if self.train.adapter else []

    @property
    def trains_vocabulary(self) -> bool:
        """Whether token embeddings and LM head learn, although the rest of their tower is adapted."""
        return self.train.lora.vocabulary and ModelPart.language in self.adapted

    @property
    def validates(self) -> bool:
        """Whether training is interrupted by validations."""
        return self.data.validation.share > 0 or bool(self.data.validation.sources)

    @property
    def trained_in_full(self) -> list[ModelPart]:
        """The trained parts whose own weights learn."""
        return [part for part in self.stage.trained if part not in self.adapted]
