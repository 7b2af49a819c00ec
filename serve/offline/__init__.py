"""Batch inference: the rows of a file or folder are answered by the engine of the server and written out."""
