"""Each module knows one thing outside the process."""
