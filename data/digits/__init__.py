"""The embedded data set: real handwritten digits in the on-disk formats of the five data sets."""
