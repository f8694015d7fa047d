"""The movers of bytes and the only writer of residency (trio)."""
