"""The forward process and the training objective, as pure functions."""
