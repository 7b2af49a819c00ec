"""Benchmark tasks of LMMs-Eval on a checkpoint."""
