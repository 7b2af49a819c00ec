"""Decoding by masked diffusion: an engine that runs one denoising step at a time, and its parts."""
