"""Training data: sources, records, manifest, pipeline, and the built-in digits."""
