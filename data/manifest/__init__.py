"""The manifest of a stage's samples: its specification, the scan that builds it, and quarantined samples."""
