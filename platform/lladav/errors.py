"""Errors that a user can fix.

A command prints the message of a ``UserError`` as one line and exits with code 2. Any other exception is a
bug and keeps its traceback.
"""


class UserError(ValueError):
    """Bad input: the message names the thing, what is wrong with it and the fix, in one printable line."""

    def __init__(self, message: str) -> None:
        # The message may quote input with line breaks or lone surrogates.
        printable = message.encode(errors="backslashreplace").decode()
        super().__init__("\\n".join(printable.splitlines()))


class MediaError(UserError):
    """An image or video cannot be read; the message has its name and the reason."""


class StorageError(Exception):
    """An object store does not respond. The data may be fine, and a retry may succeed."""
