"""Measurements that explain a model, such as its attention patterns."""
