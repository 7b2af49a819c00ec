"""What training takes, computed from the settings: FLOPs and hours, GPU memory, sizes of checkpoints."""
