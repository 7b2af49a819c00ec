"""Lays an answer out: from the forms of a schema to outlines of fixed tokens, slots and choices.

A *layout* is a form prepared for writing, a *part* is what remains to be written, and a stack of parts is the
state of an answer. ``layouts`` finds layouts and the tokens that they take, ``answer`` turns a stack into
pieces and choices. Whatever is offered can be completed within the tokens left.
"""
