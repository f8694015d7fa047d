"""Benchmark: tierfs beside the plain directory and beside the peers that are installed. See docs/BENCHMARKS.md."""
