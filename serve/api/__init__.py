"""The HTTP API: schemas, middleware, routes, and from a request to an engine request and back."""
