"""Conjunctions of constraints on the values of one JSON type, and the forms that they have."""
