"""What the benchmarks of a GPU share: their command line, and what they say where there is none."""

from __future__ import annotations

import argparse

import torch


def gpu_parser(doc: str | None, layers: int, about_layers: str) -> argparse.ArgumentParser:
    """A command line with the device and the size of the language tower."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=form)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu only tries the logic out")
    parser.add_argument("--layers", type=int, default=layers, help=about_layers)
    parser.add_argument("--width", type=int, default=4096, help="default 4096")
    return parser


def device_or_skip(options: argparse.Namespace) -> torch.device | None:
    """The device asked for; where it is a GPU that is not there, none, after a line that says so."""
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU here; --device cpu --layers 1 --width 64 tries the logic out")
        return None
    return device
