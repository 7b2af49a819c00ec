"""Decoding by masked diffusion: options, canvas, reveal rules and the plain loop."""
