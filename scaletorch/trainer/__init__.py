"""Training runs from a config; ``python -m scaletorch.train`` runs them."""

from scaletorch.trainer.config import Config, load_config
from scaletorch.trainer.loop import Ended, Trainer
from scaletorch.trainer.plans import parse_recipe

__all__ = ["Config", "Ended", "Trainer", "load_config", "parse_recipe"]
