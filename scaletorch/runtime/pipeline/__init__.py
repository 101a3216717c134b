"""Runs a rank's stages in the order of a schedule."""
