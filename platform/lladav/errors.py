"""Mistakes of the user, told in one line.

An entry point prints the message of a ``UserError`` and exits with code 2; anything else is a defect of ours
and keeps its traceback.
"""

import argparse
from typing import NoReturn


class UserError(ValueError):
    """Bad input: the message names the thing, what is wrong with it and the fix.

    It stays one line of text that can be printed, whatever input it quotes.
    """

    def __init__(self, message: str) -> None:
        printable = message.encode(errors="backslashreplace").decode()
        super().__init__("\\n".join(printable.splitlines()))


class MediaError(UserError):
    """An image or video that cannot be read; the message names it and says why."""


class StorageError(Exception):
    """An object store that does not answer: no fault of the data, and another attempt may succeed."""


class OneLineParser(argparse.ArgumentParser):
    """A parser of arguments that complains in one line, by a ``UserError``."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help tells all flags")
