"""The training loop: stages, workers, ZeRO-3, metrics, failures."""
