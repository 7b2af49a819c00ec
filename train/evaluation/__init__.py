"""Questions about held-out data, and plots."""
