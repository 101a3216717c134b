"""Time and memory of a plan, as pure functions."""
