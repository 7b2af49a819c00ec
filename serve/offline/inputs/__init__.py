"""Forms of the input: how its rows are counted, cut into shards and read."""
