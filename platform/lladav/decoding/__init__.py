"""Decoding by masked diffusion: a step-level engine, and what it is made of."""
