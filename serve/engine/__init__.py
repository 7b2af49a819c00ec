"""The engine deployment, its messages, and the client through which an ingress calls it."""
