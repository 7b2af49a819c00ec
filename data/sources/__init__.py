"""Data sets on disk or in an object store: records by their position, images and videos by their name."""
