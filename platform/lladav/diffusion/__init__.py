"""The forward process (masking) and the training loss, as pure functions."""
