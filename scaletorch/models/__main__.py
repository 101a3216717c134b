"""Print every named model with its parameters."""

from __future__ import annotations

import sys

from planner.piped import piped
from scaletorch.models.registry import config, names, parameter_count


def main() -> None:
    print("| name | config | parameters |")
    print("| --- | --- | ---: |")
    for name in names():
        print(f"| {name} | {type(config(name)).__name__} | "
              f"{parameter_count(name):,} |")


if __name__ == "__main__":
    sys.exit(piped(main))
