"""The HTTP API: the way from a request to an engine request and back."""
