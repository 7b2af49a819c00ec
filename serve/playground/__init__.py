"""The playground: a static page that sends questions and shows how answers are unmasked.

The page needs no build step and loads nothing from other hosts. It complies with the policy below: Vue is the
runtime build without template compiler, which would need ``unsafe-eval``, and the HTML has no inline scripts
or styles.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "static"
"""Static files, served at ``/playground``; ``index.html`` is the page for ``/``. Contains no Python files."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' data:",
        "style-src 'self'",
        "script-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Value of the ``Content-Security-Policy`` header for the page and its files."""
