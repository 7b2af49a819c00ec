"""Evaluation on held-out questions, and plots."""
