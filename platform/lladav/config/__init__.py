"""Settings: their schema, how they are loaded, checked and compared, and the command line."""
