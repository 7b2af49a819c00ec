"""Training on Ray Train: commands on top; the trainer, checkpoints, evaluation and toy towers below."""
