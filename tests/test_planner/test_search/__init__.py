"""Tests of planner/search/."""
