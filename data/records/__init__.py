"""A training record: what it holds, and how the published formats are parsed."""
