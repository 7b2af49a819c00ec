"""For operators: autoscaling, metrics, and a check of config files."""
