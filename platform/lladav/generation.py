"""Answers one question about images or a video: as a function, and in the terminal.

    python -m lladav.generate --image image.png "How many digits are there?"
    python -m lladav.generate --model FOLDER --video clip.mp4 --frames 16 "What happens?"
    python -m lladav.generate --model FOLDER --image receipt.png --schema receipt.json "Read the receipt."

Without ``--model`` the tiny model that lladav ships answers. A terminal shows the answer while it is decoded,
out of order: dim dots are masked positions.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.live import Live
from rich.text import Text

from lladav.checkpoint import model_config_of, open_model, shipped_model
from lladav.config.cli import OneLineParser, one_line_errors
from lladav.config.introspection import field_docs
from lladav.config.schema import ModelConfig, Pixels, Prediction
from lladav.decoding.cpu_weights import fastest_dtype
from lladav.decoding.engine import engine_for
from lladav.decoding.params import Cache, DecodingOptions, refusal
from lladav.decoding.prompts import question_prompt
from lladav.decoding.results import Decoded, Update
from lladav.decoding.stops import StopTexts
from lladav.decoding.structured_options import with_structure
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.clips import read_clip
from lladav.inputs.image_files import read_image, to_rgb
from lladav.inputs.images import ViewGeometry, prepare_images
from lladav.inputs.samples import Sample
from lladav.model.llada_v import LLaDAV
from lladav.structured.compiling import Structure, StructureSpec, compile_structure
from lladav.structured.files import schema_errors
from lladav.structured.flags import add_structure_flags, structure_flag, structure_of

MASK_SHOWN = "·"
NONE = " | None"

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Number formats in which the model runs."""


def _device(value: str) -> str:
    """Check that a device exists on this machine."""
    with contextlib.suppress(RuntimeError, AssertionError):  # torch without CUDA asserts
        if torch.empty(0, device=value).device.type in ("cpu", "cuda"):
            return value
    raise argparse.ArgumentTypeError(f"there is no {value!r} on this machine; use cpu")


def _cache(value: str) -> Cache:
    if value not in list(Cache):
        raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(Cache)}")
    return Cache(value)


WITHOUT_FLAG = ("top_logprobs",)
"""Settings for callers: a terminal does not show what they ask for."""
KINDS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "Cache": _cache}


@dataclass(frozen=True)
class Answer:
    """The text of an answer, and the result of decoding."""

    text: str
    decoded: Decoded


def generate(
    model: LLaDAV,
    images: Sequence[Image.Image],
    text: str,
    *,
    video: str | Path | None = None,
    frames: int | None = None,
    tokenizer: ChatTokenizer | None = None,
    stop_texts: Sequence[str] = (),
    structure: StructureSpec | None = None,
    **settings: Any,
) -> Answer:
    """Answer a question about images or a video, up to the first of ``stop_texts`` or with a structure.

    ``settings`` are those of ``DecodingOptions``, and ``allow_eos``, which is that of the model by default
    (``DecodingOptions.for_chat``). ``video`` is a file or a folder of frames, from which
    ``frames`` are taken (default: ``model.images.inference_frames``). ``tokenizer`` defaults to the
    checkpoint's. Raises ``UserError`` for invalid settings and for a video that cannot be read.
    """
    tokenizer = tokenizer or ChatTokenizer.load(model.config.tokenizer)
    options = chat_options(model.config, tokenizer, stop_texts, structure, **settings)
    *_, last = updates(model, question(model.config, tokenizer, images, text, video, frames), options)
    if last.answer is None:
        raise UserError(last.error or "decoding ended without an answer")
    return Answer(last.answer.text(tokenizer.token_bytes), last.answer)


def chat_options(
    config: ModelConfig,
    tokenizer: ChatTokenizer,
    stop_texts: Sequence[str] = (),
    structure: StructureSpec | None = None,
    **settings: Any,
) -> DecodingOptions:
    """Return options for a chat answer, which ends with its turn, at the first of ``stop_texts``, or where
    its structure ends.

    Raises ``UserError`` for settings that such a model does not have, and ``SchemaError`` for a structure
    that cannot be guaranteed.
    """
    settings = {"allow_eos": config.allow_eos, **settings}
    if structure is not None:
        if stop_texts:
            raise UserError("stop texts and a structure exclude each other: the structure ends the answer")
        settings = structured_settings(tokenizer, config.prediction, structure, settings)
    texts = StopTexts(stop_texts, tokenizer.token_bytes) if stop_texts else None
    return DecodingOptions.for_chat(tokenizer.ids, config.prediction, stop_texts=texts, **settings)


def structured_settings(
    tokenizer: ChatTokenizer, prediction: Prediction, structure: StructureSpec, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of an answer with the outline of its structure; raises ``UserError``."""
    if prediction is Prediction.next_token:
        raise UserError(f"decoding: {refusal([structure.kind.value])}")
    return with_structure(settings, _compiled(tokenizer, structure, settings))


def _compiled(tokenizer: ChatTokenizer, spec: StructureSpec, settings: Mapping[str, Any]) -> Structure:
    return compile_structure(spec, tokenizer, settings.get("max_tokens", DecodingOptions.max_tokens))


def question(
    config: ModelConfig,
    tokenizer: ChatTokenizer,
    images: Sequence[Image.Image],
    text: str,
    video: str | Path | None = None,
    frames: int | None = None,
) -> Sample:
    """Return a prompt about images or about a video."""
    geometry = ViewGeometry.of(config)
    if video is not None:
        if images:
            raise UserError("images and a video exclude each other; ask about one of them")
        count = config.images.inference_frames if frames is None else frames
        visuals = [read_clip(Path(video), count, geometry)]
    else:
        visuals = prepare_images([to_rgb(image, geometry.pixels) for image in images], geometry)
    return question_prompt("question", text, visuals, tokenizer)


def updates(model: LLaDAV, prompt: Sample, options: DecodingOptions) -> Iterator[Update]:
    """Decode, and yield the result of each step. The last one has the answer or the error."""
    engine = engine_for(model, [prompt], options)
    while engine.busy:
        yield from engine.step()


def main(command_line: Sequence[str]) -> None:
    """Answer in the terminal. A user error is one line on stderr and exit code 2."""
    with one_line_errors():
        arguments = _parser().parse_args(command_line)
        settings = {name: getattr(arguments, name) for name in option_parsers() if hasattr(arguments, name)}
        DecodingOptions(**settings)
        if arguments.allow_eos is not None:
            settings["allow_eos"] = arguments.allow_eos
        _check_files(arguments)
        structure = structure_of(arguments)
        folder = arguments.model or shipped_model()
        config, tokenizer = model_config_of(folder), ChatTokenizer.load(folder)
        images = [_open(path, config.images.pixels) for path in arguments.image]
        with schema_errors(structure_flag(arguments)):
            options = chat_options(config, tokenizer, arguments.stop, structure, **settings)
        prompt = question(config, tokenizer, images, arguments.question, arguments.video, arguments.frames)
        model = open_model(folder, getattr(torch, arguments.dtype), arguments.device)
        masks_ahead = options.positions_per_block if config.prediction is Prediction.masked else 0
        show(updates(model, prompt, options), tokenizer, options, Console(), masks_ahead)
        if structure is not None:
            _print_notes(_compiled(tokenizer, structure, settings).warnings)


def show(
    steps: Iterable[Update],
    tokenizer: ChatTokenizer,
    options: DecodingOptions,
    console: Console,
    masks_ahead: int,
) -> None:
    """Show the answer while it is decoded, or print it once if there is no terminal.

    ``masks_ahead`` is the number of masks that are shown after the last unmasked token.
    """
    revealed = {**options.infill}
    update = Update("")
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for update in steps:
            revealed |= zip(update.unmasked.positions, update.unmasked.tokens, strict=True)
            if console.is_terminal:
                live.update(
                    Text.assemble(
                        *_pieces(revealed, update.committed, tokenizer, options.max_tokens, masks_ahead)
                    ),
                    refresh=True,
                )
    if update.answer is None:
        raise UserError(update.error or "decoding ended without an answer")
    console.print(update.answer.text(tokenizer.token_bytes), markup=False, highlight=False)
    notes = [
        f"{len(update.answer.tokens)} tokens, {update.answer.forwards} forwards",
        *update.answer.warnings,
    ]
    _print_notes(notes)


def _print_notes(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _pieces(
    revealed: dict[int, int], committed: int, tokenizer: ChatTokenizer, canvas: int, masks_ahead: int
) -> Iterator[tuple[str, str]]:
    """Text and style of the canvas: committed text plain, other unmasked text bold, masks as dim dots."""
    last = max(revealed, default=-1)
    run: list[int] = []
    for position in range(min(canvas, last + 1 + masks_ahead)):
        if position in revealed:
            run.append(revealed[position])
            if position + 1 in revealed and position + 1 != committed:
                continue
        if run:
            yield tokenizer.decode(run), "" if position < committed else "bold"
            run = []
        if position not in revealed:
            yield MASK_SHOWN, "dim"


def _open(path: str, pixels: Pixels) -> Image.Image:
    with Path(path).open("rb") as stream:
        return read_image(stream, f"--image {path}", pixels)


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise ``UserError`` if an image or the video does not exist."""
    for path in arguments.image:
        if not Path(path).is_file():
            raise UserError(f"--image {path}: no such file")
    if arguments.video and not arguments.video.exists():
        raise UserError(f"--video {arguments.video}: no such file or folder")
    if arguments.frames is not None and arguments.frames < 1:
        raise UserError(f"--frames {arguments.frames}: must be 1 or more")


def option_parsers() -> dict[str, Callable[[str], Any]]:
    """The decoding settings that have a single value, and the parser of their text."""
    kinds = {field.name: str(field.type) for field in fields(DecodingOptions)}
    return {
        name: _or_none(KINDS[kind.removesuffix(NONE)]) if kind.endswith(NONE) else KINDS[kind]
        for name, kind in kinds.items()
        if kind.removesuffix(NONE) in KINDS and name not in WITHOUT_FLAG
    }


def _or_none(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(value: str) -> Any:
        return None if value == "none" else parse(value)

    parsed.__name__ = getattr(parse, "__name__", "value")
    return parsed


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").splitlines()
    parser = OneLineParser(prog="python -m lladav.generate", description=lines[0])
    parser.add_argument("question")
    parser.add_argument(
        "--model",
        type=Path,
        help="folder or hub id of a LLaDA-V checkpoint with its tokenizer; default: the shipped tiny model",
    )
    parser.add_argument("--image", action="append", default=[], help="an image file; repeatable")
    parser.add_argument("--video", type=Path, help="a file or a folder of frames; not together with --image")
    parser.add_argument(
        "--frames",
        type=int,
        help="evenly spread frames to take from the video; default: model.images.inference_frames",
    )
    parser.add_argument("--stop", action="append", default=[], help="text that ends the answer; repeatable")
    add_structure_flags(parser)
    parser.add_argument(
        "--allow-eos",
        action=argparse.BooleanOptionalAction,
        help="whether the answer may contain EOS, which ends it; default: model.allow_eos",
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, type=_device, help=f"cpu or cuda; default {device}")
    dtype = fastest_dtype(device)
    text = f"number format of the weights; default {dtype}, the fastest on this machine"
    parser.add_argument("--dtype", default=dtype, choices=DTYPES, help=text)
    docs, defaults = field_docs(DecodingOptions), DecodingOptions()
    for name, kind in option_parsers().items():
        default = getattr(defaults, name)
        text = docs[name].replace("``", "").replace("%", "%%")
        default = "none" if default is None else default
        flag, metavar = f"--{name.replace('_', '-')}", kind.__name__.strip("_").upper()
        parser.add_argument(
            flag, type=kind, metavar=metavar, default=argparse.SUPPRESS, help=f"{text} (default {default})"
        )
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
