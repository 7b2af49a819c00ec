"""Measurements of a model that explain it, such as where attention goes."""
