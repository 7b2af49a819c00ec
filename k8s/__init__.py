"""Kubernetes manifests, what makes parts of them, and what checks them without a cluster."""
