"""Concrete calls of every operator that has a rule."""

from tests.test_planner.test_rules.cases import (attention, factories, images,
                                                 indexing, lookups, mixtures,
                                                 norms, others, pointwise,
                                                 products, reductions, views)
from tests.test_planner.test_rules.cases.case import Case
from tests.test_planner.test_rules.cases.simulators import SIMULATORS

__all__ = ["CASES", "Case", "SIMULATORS"]

CASES: tuple[Case, ...] = (*attention.CASES, *factories.CASES, *images.CASES,
                           *indexing.CASES, *lookups.CASES, *mixtures.CASES,
                           *norms.CASES, *others.CASES, *pointwise.CASES,
                           *products.CASES, *reductions.CASES, *views.CASES)
