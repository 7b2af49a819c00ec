"""Fetches, decodes and tiles untrusted images within limits."""
