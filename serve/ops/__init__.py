"""What operators need: autoscaling, metrics, a check of config files, draining."""
