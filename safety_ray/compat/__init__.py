"""Workarounds for faults of the libraries below, one file each, with the reason and the versions."""
