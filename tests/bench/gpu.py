"""Shared by the GPU benchmarks: the command line, and the line printed without a GPU."""

from __future__ import annotations

import argparse

import torch


def gpu_parser(doc: str | None, layers: int, about_layers: str) -> argparse.ArgumentParser:
    """A parser with the device and the size of the language tower."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=form)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu is for trying out the logic")
    parser.add_argument("--layers", type=int, default=layers, help=about_layers)
    parser.add_argument("--width", type=int, default=4096, help="default 4096")
    return parser


def device_or_skip(options: argparse.Namespace) -> torch.device | None:
    """The device of the options; None, with a line printed, if it is a GPU and there is none."""
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU; try out the logic with --device cpu --layers 1 --width 64")
        return None
    return device
