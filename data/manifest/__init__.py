"""The list of usable samples of a data set: how it is made, stored and read; records that are left out."""
