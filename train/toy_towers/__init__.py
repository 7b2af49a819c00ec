"""Training of the tiny model's towers, which stand for the published ones."""
