"""Keywords as formulas: what each says about the values of one JSON type, and its negation."""
