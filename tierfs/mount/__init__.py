"""The filesystem, its FUSE adapter and its processes."""
