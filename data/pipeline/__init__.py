"""The data pipeline: from a manifest to the micro-batches of each rank, with Ray Data."""
