"""Errors that a client receives, in the form of OpenAI's errors.

Every refusal is an ``ApiError``: an HTTP status, one line that says where, what and the fix, the parameter at
fault, and the seconds to wait if waiting helps.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""OpenAI's ``error.type`` by status."""
NOT_FINITE = "not_finite"
"""``code`` of the error if the model computes NaN or infinity."""
MAX_MESSAGE_CHARACTERS = 1000
"""Longer messages are cut: they may quote names of any length from a request."""


class ApiError(Exception):
    """A request is refused or fails. Raised anywhere between the socket and the engine."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """``code`` is the machine-readable reason, ``param`` the path of the field at fault, as in
        ``messages[0].content[1].image_url.url``. ``retry_after`` is in seconds.
        """
        message = _truncated(message)
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.param = param and _truncated(param)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors are pickled from a replica to the ingress; the default would lose the keyword arguments."""
        return _rebuild, (self.status, self.message, self.code, self.param, self.retry_after)

    @property
    def body(self) -> dict[str, Any]:
        """The response body, as OpenAI's clients expect it."""
        kind = TYPES.get(self.status, "server_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After`` in seconds if waiting helps; ``Connection: close`` after an incomplete body."""
        headers = {"Connection": "close"} if self.status == HTTPStatus.REQUEST_TIMEOUT else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return headers


def _truncated(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else f"{text[:MAX_MESSAGE_CHARACTERS]}..."


def _rebuild(
    status: int, message: str, code: str | None, param: str | None, retry_after: float | None
) -> ApiError:
    return ApiError(status, message, code=code, param=param, retry_after=retry_after)
