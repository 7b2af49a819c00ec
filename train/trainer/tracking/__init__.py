"""Experiment trackers: where the numbers of a run and its answers to validation questions are shown."""
