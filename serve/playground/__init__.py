"""The playground: one static page that asks questions and shows answers fill in.

The page needs no build and nothing from other hosts. It is written for the policy below: Vue comes without
its template compiler, which would need ``unsafe-eval``, and neither scripts nor styles stand inside the HTML.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "static"
"""Served at ``/playground``; ``index.html`` in it is the page for ``/``. No Python file is among them."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self'",
        "script-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Value of the ``Content-Security-Policy`` header for the page and its files."""
