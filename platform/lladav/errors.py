"""Mistakes of the user, told in one line.

An entry point prints the message of a ``UserError`` and exits with code 2; anything else is a defect of ours
and keeps its traceback.
"""


class UserError(ValueError):
    """Bad input: the message names the thing, what is wrong with it and the fix."""
