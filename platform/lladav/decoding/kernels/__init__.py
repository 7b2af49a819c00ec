"""Kernels of the sampler: softmax statistics of logits that are never held for the whole vocabulary."""
