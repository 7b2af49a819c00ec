"""Serving on Ray Serve: commands on top, one folder for each concern."""
