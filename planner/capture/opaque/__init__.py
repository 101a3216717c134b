"""Modules that no trace can hold: run whole, under ordinary autograd."""
