"""How the schema declares a setting: its default, the values it accepts, and whether a run depends on it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

FILE_NAME = re.compile(r"[\w][\w.+-]*")
MAX_NAME_BYTES = 80
"""The name of a run's folder joins three names, and a file name has at most 255 bytes."""


@dataclass(frozen=True)
class SettingInfo:
    """What the schema says about a setting besides its type and default.

    A number is finite and greater than ``above``, at least ``minimum`` and at most ``maximum``.
    """

    above: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    is_file_name: bool = False
    non_semantic: str = ""
    """Why a run may resume with another value; empty if it may not."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with ``value`` and how to fix it, as the end of an error line; None if it is fine."""
        if self.is_file_name:
            return _problem_of_name(value)
        if self.above is not None and not self.above < value < math.inf:
            return f"must be above {self.above}"
        if self.maximum == 1 and not 0 <= value <= 1:
            return "must be a fraction from 0 to 1"
        if self.minimum is not None and not self.minimum <= value < math.inf:
            return f"must be {self.minimum} or more"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum}"
        return None


def setting(
    default: Any = MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    is_file_name: bool = False,
    non_semantic: str = "",
) -> Any:
    """Declare a field of the schema: the default (or a ``factory`` of it) and what ``SettingInfo`` holds.

    ``default=None`` makes a setting optional; None is always accepted then. A setting without a default needs
    a value from a file or the command line.
    """
    info = SettingInfo(above, minimum, maximum, is_file_name, non_semantic)
    if factory is not None:
        return field(default_factory=factory, metadata={"setting": info})
    return field(default=default, metadata={"setting": info})


def _problem_of_name(name: str) -> str | None:
    if not FILE_NAME.fullmatch(name):
        return "part of a folder's name; use letters, digits and . _ + -"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"part of a folder's name; use at most {MAX_NAME_BYTES} bytes"
    return None
