"""The deployment that decodes, and how the ingress asks it."""
