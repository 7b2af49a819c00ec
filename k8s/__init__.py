"""Kubernetes manifests, generators for parts of them, and checks that need no cluster."""
