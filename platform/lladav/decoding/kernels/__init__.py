"""Kernels of the sampler: softmax statistics over a vocabulary that is never held whole."""
