"""Authentication: API keys, their rate and concurrency limits, and the loopback rule without keys."""
