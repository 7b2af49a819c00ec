"""The error for a schema or pattern that cannot be guaranteed, found before the first step."""

from __future__ import annotations

from lladav.errors import UserError


def pointer(path: str, *steps: object) -> str:
    """The JSON pointer of a place below another one, by keys and indices."""
    return path + "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


class SchemaError(UserError):
    """A schema has a keyword that cannot be enforced, no valid value, or no value that fits.

    ``path`` is the place in the schema as a JSON pointer (``#/properties/size``), and ``code`` is one of
    ``unsupported_schema``, ``impossible_schema``, ``schema_too_long``, ``invalid_schema``.
    """

    def __init__(self, path: str, reason: str, code: str = "unsupported_schema") -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason, self.code = path, reason, code

    def at(self, path: str) -> SchemaError:
        """The same error at a place. It has no traceback, which would hold everything that was compiled."""
        return SchemaError(path, self.reason, self.code)
