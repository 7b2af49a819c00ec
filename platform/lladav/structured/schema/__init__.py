"""JSON Schema, drafts 4 to 2020-12, resolved into forms.

``reading`` is the entry. A subschema (``subschemas``) is expanded by its ``keywords`` into a formula of
constraints and further subschemas (``formulas``). ``search`` brings a conjunction of subschemas into
disjunctive normal form, one JSON type at a time: each conjunct is one object of ``constraints``, which
becomes forms. ``nodes`` keeps the results and finds which nodes have a finite value.

Everything is lazy and bounded by counting. What cannot be guaranteed is dropped from a disjunction; the
reason is reported only if nothing is left.
"""
