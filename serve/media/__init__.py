"""Images of strangers: fetched, decoded and tiled within limits."""
