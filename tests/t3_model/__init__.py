"""Residency transparency: whatever tierfs does on its own, the tree looks the same."""
