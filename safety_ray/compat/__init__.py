"""Workarounds for bugs in dependencies, one file each, with the reason and the affected versions."""
