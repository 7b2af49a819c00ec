"""Training records and the parser for all their published forms."""
