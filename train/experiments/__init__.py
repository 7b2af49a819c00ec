"""Experiments: trials from a YAML file, their execution on Ray, and what each kind measures and draws."""
