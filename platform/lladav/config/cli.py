"""Command lines: from arguments to settings, and user errors as one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from lladav.config.help import help_text
from lladav.config.loader import expand_stages, load, to_yaml
from lladav.config.schema import Config
from lladav.errors import UserError

HELP_FLAGS = frozenset({"-h", "--help"})


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that raises ``UserError`` for bad arguments."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists all flags")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a ``UserError`` as one line on stderr and exit with code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def key_values(arguments: Sequence[str]) -> dict[str, str]:
    """Arguments of a command line, ``key=value``, by key; raises ``UserError`` for another form."""
    pairs = [argument.partition("=") for argument in arguments]
    for key, sign, value in pairs:
        if not key or not sign or key.startswith("-"):
            raise UserError(f"{key}{sign}{value}: not a setting; write key=value")
    return {key: value for key, _, value in pairs}


def main_arguments(
    arguments: Sequence[str], doc: str = "", notes: Callable[[Config], Iterable[str]] = lambda _: ()
) -> list[Config]:
    """Return the settings of each run that a command's arguments describe: several for ``stage=all``.

    ``--help`` and ``print=true`` print and exit with code 0; the latter prints the lines of ``notes`` as
    comments in front of the settings. A user error exits with code 2.
    """
    with one_line_errors():
        overrides = [a for a in arguments if a not in {*HELP_FLAGS, "print=true"}]
        if len(overrides) < len(arguments) and "print=true" not in arguments:
            _print_and_exit(help_text(overrides, doc))
        configs = [load(each) for each in expand_stages(overrides)]
        if "print=true" in arguments:
            pages = ["".join(f"# {note}\n" for note in notes(each)) + to_yaml(each) for each in configs]
            _print_and_exit("---\n".join(pages).rstrip())
        return configs


def _print_and_exit(text: str) -> NoReturn:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # as in "--help | head"; the interpreter would flush stdout again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)
