"""Train from a config file, on one process or under any launcher::

    python -m scaletorch.train config.yaml train.lr=3e-4
    torchrun --nproc-per-node 4 -m scaletorch.train config.yaml

Exit codes: 0 finished; 1 an error; 2 a config that is refused; 3 a loss that
is not finite stopped the run; 130 SIGINT (Ctrl-C) did; 143 SIGTERM did. After
3, 130 and 143 the run has been saved, and the same command goes on with it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import (
    get_error_handler, record)

from planner.cluster import load_cluster
from planner.cluster.local import LOCAL
from scaletorch import data, dist
from scaletorch.cluster import PROFILE
from scaletorch.trainer.build import check_model
from scaletorch.trainer.checkpoints import check_folder
from scaletorch.trainer.config import Config, load_config
from scaletorch.trainer.loop import Ended, Trainer
from scaletorch.trainer.metrics import check_tensorboard
from scaletorch.trainer.plans import parse_plan
from scaletorch.trainer.reference import reference
from scaletorch.trainer.schedules import schedule

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scaletorch.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="a YAML file")
    parser.add_argument("overrides",
                        nargs="*",
                        metavar="key=value",
                        help="such as train.lr=3e-4")
    parser.add_argument("--help-config",
                        action="store_true",
                        help="print all keys of the config and exit")
    args = parser.parse_args(arguments)
    if args.help_config:
        print(reference())
        return 0
    if args.config is None:
        parser.error("give a config file, or --help-config")
    try:
        config = _checked(args.config, args.overrides)
    except (OSError, ValueError) as error:
        print(f"{args.config}: {error}", file=sys.stderr)
        get_error_handler().record_exception(error)
        return 2
    return _run(config).value


def _checked(path: str, overrides: Sequence[str]) -> Config:
    """The config; what needs no device is refused before ranks start."""
    config = load_config(path, overrides)
    parse_plan(config.plan)
    schedule(config.schedule, config.train.steps)
    check_model(config.model)
    data.check(config.data)
    if config.evaluation_data is not None:
        data.check(config.evaluation_data, name="evaluation_data")
    if config.cluster not in (None, LOCAL, PROFILE):
        load_cluster(config.cluster)
    if config.metrics.tensorboard:
        check_tensorboard()
    if config.checkpoint.folder is not None:
        check_folder(Path(config.checkpoint.folder))
    return config


@record
def _run(config: Config) -> Ended:
    """On one rank; of an error torchrun's last words are then what it was."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    dist.init()
    try:
        return Trainer(config).run()
    except KeyboardInterrupt:
        # Those within steps are waited for.
        print("interrupted before the first step", file=sys.stderr)
        return Ended.INTERRUPTED
    finally:
        dist.shutdown()


if __name__ == "__main__":
    sys.exit(main())
