"""What all requests share: reading bodies, middleware, the context of a request, server-sent events."""
