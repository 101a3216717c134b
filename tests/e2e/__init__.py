"""Whole programs: model by plan, command lines, real processes."""
