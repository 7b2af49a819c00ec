"""The built-in data set: handwritten digits in the on-disk formats of the five published data sets."""
