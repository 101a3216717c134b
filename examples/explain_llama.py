"""Llama 3 of eight billion parameters, for a plan without a machine.

On the meta device, so nothing is allocated; any name that
``python -m scaletorch.models`` prints does::

    python -m planner.explain examples/explain_llama.py --mesh dp=4,tp=8
"""

from __future__ import annotations

import torch

from scaletorch import models

with torch.device("meta"):
    model = models.build("llama3-8b").to(torch.bfloat16)

example_inputs = model.example_inputs(batch_size=64, sequence_length=8192)
