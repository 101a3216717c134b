"""Analysis: from a single-device program to a plan; nothing is rewritten."""
