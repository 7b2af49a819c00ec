"""Errors that a user can fix.

A command prints the message of a ``UserError`` as one line and exits with code 2. Any other exception is a
bug and keeps its traceback.
"""


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
    """An object store does not answer; the data may be fine, and a retry may succeed."""
