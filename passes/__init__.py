"""Passes: from a program and a plan to one rank's program."""
