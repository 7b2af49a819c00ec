"""From a manifest to the micro-batches of each rank: the plan, encoding, reading, Ray Data."""
