"""A run's folder: checkpoints, optimizer state, the lock, and how much space they take."""
