"""The HTTP API: schemas, middleware, routes, and the way from a request to an engine request and back."""
