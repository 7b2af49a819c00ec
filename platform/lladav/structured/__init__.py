"""Structured output: answers that belong to a JSON schema, a regular expression or a list of texts.

``schema`` reads a JSON Schema into the forms of ``forms``. ``languages`` turns forms of scalars, patterns and
lists of texts into automata over tokens, and finds the most probable token sequence that one accepts.
``outlines`` lays an answer out as fixed tokens, slots and choices: the interface of ``outline``, which the
decoding engine fills in. ``compiling`` joins them.

Nothing here knows the model or the engine; scores arrive as numpy arrays.
"""
