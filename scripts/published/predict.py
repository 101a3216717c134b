"""Predictions of published runs, with what they are made of."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from scripts.published.batch import Batch
from scripts.published.captured import CapturedPrice, captured_price
from scripts.published.case import Case, Unreadable
from scripts.published.read import read_case, source_of

__all__ = ["Prediction", "is_doubted", "predict"]

_MALFORMED = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError,
              ValueError)
_DOUBTS = "do not use for error statistics|known .* regression"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model says of one row; `reason` where it says nothing.

    `parts_s` are the parts of the predicted time, `parts_bytes` those of
    the tensors' memory, by name. `captured` is what the search's price of
    the captured model says, where that was asked for.
    """

    id: str
    source: str
    doubted: bool = False
    case: Case | None = None
    predicted_s: float | None = None
    measured_s: float | None = None
    predicted_peak_bytes: float | None = None
    measured_peak_bytes: float | None = None
    parts_s: Mapping[str, float] = field(default_factory=dict)
    parts_bytes: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    captured: CapturedPrice | None = None

    @property
    def captured_s(self) -> float | None:
        """The step as the search prices it."""
        return self.captured.time_s if self.captured else None

    @property
    def captured_own_s(self) -> float | None:
        """That, and what the row's software does otherwise."""
        if self.captured_s is None or self.captured is None:
            return None
        return self.captured_s + (self.captured.otherwise_s or 0.0)

    @property
    def captured_peak_bytes(self) -> float | None:
        """The memory as the search estimates it."""
        return self.captured.peak_bytes if self.captured else None

    @property
    def captured_own_peak_bytes(self) -> float | None:
        """That, and what the row's software takes otherwise."""
        if self.captured_peak_bytes is None or self.captured is None:
            return None
        return self.captured_peak_bytes + (self.captured.otherwise_bytes
                                           or 0.0)

    def as_json(self) -> dict[str, Any]:
        """The fields that ``--json`` prints; errors are relative."""
        return {
            "id":
            self.id,
            "source":
            self.source,
            "predicted_s":
            self.predicted_s,
            "measured_s":
            self.measured_s,
            "error":
            _error(self.predicted_s, self.measured_s),
            "predicted_peak_bytes":
            self.predicted_peak_bytes,
            "measured_peak_bytes":
            self.measured_peak_bytes,
            "peak_error":
            _error(self.predicted_peak_bytes, self.measured_peak_bytes),
            "parts_s":
            dict(self.parts_s),
            "parts_bytes":
            dict(self.parts_bytes),
            "reason":
            self.reason,
            **(self._captured_json() if self.captured else {})
        }

    def _captured_json(self) -> dict[str, Any]:
        assert self.captured is not None
        return {
            "captured_s":
            self.captured_s,
            "captured_error":
            _error(self.captured_s, self.measured_s),
            "captured_own_s":
            self.captured_own_s,
            "captured_own_error":
            _error(self.captured_own_s, self.measured_s),
            "captured_peak_bytes":
            self.captured_peak_bytes,
            "captured_peak_error":
            _error(self.captured_peak_bytes, self.measured_peak_bytes),
            "captured_own_peak_bytes":
            self.captured_own_peak_bytes,
            "captured_own_peak_error":
            _error(self.captured_own_peak_bytes, self.measured_peak_bytes),
            "captured_plan":
            self.captured.plan,
            "captured_reason":
            self.captured.reason
        }


def _error(predicted: float | None, measured: float | None) -> float | None:
    if predicted is None or not measured:
        return None
    return predicted / measured - 1


def predict(rows: Sequence[Any],
            *,
            captured: bool = False) -> list[Prediction]:
    """Predict every row, in order; with `captured` also as the search does.
    """
    cases: dict[int, Case] = {}
    reasons: dict[int, str] = {}
    for number, row in enumerate(rows):
        try:
            cases[number] = _priceable(row)
        except Unreadable as error:
            reasons[number] = str(error)
        except _MALFORMED as error:
            reasons[number] = f"the row is malformed: {error!r}"
    found = _priced(cases)
    return [
        _prediction(row, cases.get(n), found.get(n, {}), reasons.get(n),
                    captured) for n, row in enumerate(rows)
    ]


def _priceable(row: Any) -> Case:
    """A case that has finite prices by itself."""
    case = read_case(row)
    batch = Batch.of([case])
    prices = [*batch.times().time_s.tolist(), *batch.peak_bytes().tolist()]
    if not all(math.isfinite(p) and p > 0 for p in prices):
        raise Unreadable(f"its sizes have no finite price: {prices}")
    return case


def _priced(cases: Mapping[int, Case]) -> dict[int, dict[str, Any]]:
    """What is predicted of each case."""
    if not cases:
        return {}
    batch = Batch.of(list(cases.values()))
    times = batch.times()
    columns = zip(times.time_s.tolist(),
                  batch.peak_bytes().tolist(),
                  _rows_of(times, len(cases)),
                  _rows_of(batch.memory(), len(cases)),
                  strict=True)
    names = ("predicted_s", "predicted_peak_bytes", "parts_s", "parts_bytes")
    return {
        number: dict(zip(names, values, strict=True))
        for number, values in zip(cases, columns, strict=True)
    }


def _rows_of(parts: Any, count: int) -> list[dict[str, float]]:
    """The fields of arrays, of each case."""
    arrays = {
        f.name: np.broadcast_to(getattr(parts, f.name), count).tolist()
        for f in fields(parts)
    }
    return [{
        name: float(a[n])
        for name, a in arrays.items()
    } for n in range(count)]


def is_doubted(row: Mapping[str, Any]) -> bool:
    """Whether its own source doubts a row, or blames software for it."""
    return bool(re.search(_DOUBTS, str(row.get("notes"))))


def _prediction(row: Any, case: Case | None, found: Mapping[str, Any],
                reason: str | None, captured: bool) -> Prediction:
    known = row if isinstance(row, Mapping) else {}
    plain: dict[str, Any] = {
        "id": str(known.get("id")),
        "source": source_of(row),
        "doubted": is_doubted(known)
    }
    if case is None:
        return Prediction(**plain, reason=reason)
    return Prediction(**plain,
                      **found,
                      case=case,
                      captured=captured_price(case) if captured else None,
                      measured_s=case.measured_s,
                      measured_peak_bytes=case.measured_bytes)
