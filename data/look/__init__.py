"""A look at the data of a stage before it is trained: counts, rejects, lengths, and samples as a page."""
