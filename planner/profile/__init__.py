"""Measure the machine: kernels, collectives, and a cluster fitted to them.

``python -m planner.profile`` is the command. It is the one part of the
planner that runs anything; the rest of the planner does not import it.
"""
