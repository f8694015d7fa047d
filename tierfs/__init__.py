"""tierfs: one directory tree over a local directory and an object store."""

__version__ = "0.1.0"
