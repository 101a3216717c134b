"""Hold the cost model against published training runs.

    python -m scripts.validate_cost_model FILE... [--json] [--limit N]
        [--source GLOB] [--every N] [--brief] [--captured]
        [--picture FILE.svg]

Prints per row the predicted and the measured step time and peak memory,
rows that cannot be expressed with the reason, the errors by source, and how
far apart the times of runs are that state the same.
With ``--json``, a list of rows with their errors and the parts of the
predicted times and memory; a picture has the times of all rows. With
``--captured``, models are also built, captured, and priced under the plan
that their row states as the search prices its candidates; what the row's
software does otherwise than this library is added in further tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planner.piped import piped  # noqa: E402
from scripts.published.errors import held_out, spread, summarise  # noqa: E402
from scripts.published.picture import picture  # noqa: E402
from scripts.published.predict import Prediction, predict  # noqa: E402
from scripts.published.rows import read_rows  # noqa: E402

__all__ = ["Prediction", "main", "predict"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.validate_cost_model",
        description="Hold the cost model against published training runs.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--limit", type=int, metavar="N")
    parser.add_argument("--source", default="*", metavar="GLOB")
    parser.add_argument("--every",
                        type=int,
                        default=1,
                        metavar="N",
                        help="take the first of each N rows")
    parser.add_argument("--captured",
                        action="store_true",
                        help="price captured models too, as the search does")
    parser.add_argument("--brief",
                        action="store_true",
                        help="tables only, no rows")
    parser.add_argument("--picture",
                        type=Path,
                        metavar="FILE.svg",
                        help="draw predicted against measured times")
    args = parser.parse_args(argv)
    if args.every < 1:
        parser.error(f"--every must be at least 1, got {args.every}")
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit must be at least 1, got {args.limit}")
    found = predict(read_rows(args.files,
                              args.source,
                              args.limit,
                              every=args.every),
                    captured=args.captured)
    if args.picture:
        args.picture.write_text(picture(found), encoding="utf-8")
    if args.json:
        sys.stdout.write(
            json.dumps([p.as_json() for p in found], indent=1) + "\n")
        return 0
    if not args.brief:
        _print_rows(found)
    _print_reasons(found)
    _print_tables(found)
    return 0


def _print_rows(found: Sequence[Prediction]) -> None:
    for p in found:
        cells = [f"{p.id:24s}"]
        if p.reason is not None:
            cells.append(f"- {p.reason}")
        cells += _cell(p.predicted_s, p.measured_s, "10.4f", "s")
        cells += [
            f"captured {cell}"
            for cell in _cell(p.captured_s, p.measured_s, "10.4f", "s")
        ]
        cells += _cell(_gib(p.predicted_peak_bytes),
                       _gib(p.measured_peak_bytes), "7.2f", "GiB")
        sys.stdout.write("  ".join(cells) + "\n")


def _cell(guess: float | None, truth: float | None, form: str,
          unit: str) -> list[str]:
    """What is predicted and measured; none where nothing is predicted."""
    if guess is None:
        return []
    if truth is None:
        return [f"{guess:{form}} {unit}, not measured"]
    return [
        f"{guess:{form}} {unit} of {truth:{form}} {unit} "
        f"{100 * (guess / truth - 1):+7.1f}%"
    ]


def _gib(size_bytes: float | None) -> float | None:
    return None if size_bytes is None else size_bytes / 2**30


def _print_reasons(found: Sequence[Prediction]) -> None:
    reasons = [(p.source, p.reason) for p in found if p.reason is not None]
    _print_counts(f"{len(reasons)} of {len(found)} rows cannot be expressed",
                  reasons)
    captured = [(p.source, p.captured.reason) for p in found
                if p.captured and p.captured.reason is not None]
    if captured:
        _print_counts(f"{len(captured)} of the others cannot be captured",
                      captured)


def _print_counts(title: str, reasons: Iterable[tuple[str, str]]) -> None:
    sys.stdout.write(f"\n{title}\n")
    for (source, reason), count in sorted(Counter(reasons).items()):
        sys.stdout.write(f"{count:5d}  {source}: {reason}\n")


def _print_tables(found: Sequence[Prediction]) -> None:
    _print_table("step time", found, "predicted_s", "measured_s")
    _print_spreads(found)
    _print_table("peak memory", found, "predicted_peak_bytes",
                 "measured_peak_bytes")
    captured = [p for p in found if p.captured and not p.captured.reason]
    for guess, how in (("predicted_s", "by the formulas"),
                       ("captured_s", "as the search prices it"),
                       ("captured_own_s", "so and with the run's software")):
        _print_table(f"step time of what was captured, {how}", captured, guess,
                     "measured_s")
    _print_table(
        "step time of what was captured, so and with the run's software, "
        "against the formulas", captured, "captured_own_s", "predicted_s")
    for guess, how in (("predicted_peak_bytes", "by the formulas"),
                       ("captured_peak_bytes", "as the search estimates it"),
                       ("captured_own_peak_bytes",
                        "so and with the run's software")):
        _print_table(f"peak memory of what was captured, {how}", captured,
                     guess, "measured_peak_bytes")


def _print_table(title: str, found: Sequence[Prediction], guess: str,
                 truth: str) -> None:
    usable = [p for p in found if getattr(p, guess) and getattr(p, truth)]
    if not usable:
        return
    sys.stdout.write(f"\n{title}: absolute error\n"
                     " rows    mean   median      p90    rank\n")
    for label, group in _groups(usable):
        if group:
            summary = summarise([getattr(p, guess) for p in group],
                                [getattr(p, truth) for p in group])
            sys.stdout.write(f"{summary}   {label}\n")


def _print_spreads(found: Sequence[Prediction]) -> None:
    """By source, of rows that are the same to the model."""
    alike: dict[str, dict[object, list[float]]] = {}
    for p in found:
        if p.case and p.predicted_s and p.measured_s:
            stated = dataclasses.replace(p.case,
                                         id="",
                                         measured_s=None,
                                         measured_bytes=None,
                                         utilisation=None)
            groups = alike.setdefault(f"{p.source} / {p.case.preset}", {})
            groups.setdefault(repr(stated), []).append(p.measured_s)
    spreads = [(spread(groups.values()), label)
               for label, groups in sorted(alike.items())]
    if any(apart for apart, _ in spreads):
        sys.stdout.write("\nruns that state the same: times from their mean\n"
                         " rows    mean  largest\n")
        for apart, label in spreads:
            if apart is not None:
                sys.stdout.write(f"{apart}   {label}\n")


def _groups(
        usable: Sequence[Prediction]) -> list[tuple[str, list[Prediction]]]:
    """By source and device, then the groups that aims are stated for."""
    keys = sorted({(p.source, p.case.preset) for p in usable if p.case})
    groups = [(f"{source} / {preset}", [
        p for p in usable
        if p.case and (p.source, p.case.preset) == (source, preset)
    ]) for source, preset in keys]
    sound = [p for p in usable if not p.doubted]
    dense = [
        p for p in sound
        if p.case and p.case.stated and p.case.model.experts == 0
        and p.case.preset.startswith(("a100", "a800", "h100"))
    ]
    tuned = [
        p for p in dense if p.case and p.case.plan.devices >= 64 and (
            p.case.utilisation or 0) > 0.35
    ]
    for label, group in (("all but what sources doubt", sound), (
            "dense on A100 and H100, configuration stated in full", dense),
                         ("of these, from 64 devices and 35% utilisation on",
                          tuned)):
        kept = [p for p in group if held_out(p.source, p.id)]
        groups += [(label, group), ("  kept out of the fit", kept)]
    return groups


if __name__ == "__main__":
    sys.exit(piped(main))
