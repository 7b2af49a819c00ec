"""Answers in OpenAI's forms: whole, or as a stream of chunks."""
