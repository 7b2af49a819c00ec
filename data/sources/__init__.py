"""Reading of data sets as they lie on disk: records by place, pictures by name."""
