"""Say in the user's terms why a model could not be traced."""

from __future__ import annotations

import re
import traceback

from torch import nn

from planner.ir.errors import CaptureError

__all__ = ["explained", "reason_of"]

_DATA_DEPENDENT = re.compile(
    "data.dependent|DataDependent|item\\(\\)|DynamicOutputShape|nonzero|"
    "Could not guard|_local_scalar_dense|unbacked", re.IGNORECASE)


def explained(model: nn.Module,
              error: Exception,
              *,
              second: Exception | None = None) -> CaptureError:
    """The error to raise: the reason, the user's line and what to try.

    Parameters
    ----------
    model : nn.Module
    error : Exception
        Of the first way of tracing.
    second : Exception, optional
        Of the next way, where it failed for another reason.
    """
    reason = reason_of(error)
    advice = (
        "run the model once on these inputs without ScaleTorch: where it "
        "fails by itself, mend it or them; else rewrite that line with "
        "tensor operations of fixed shape")
    if _is_data_dependent(error):
        reason = "control flow or a shape depends on the values of a tensor"
        advice = ("use torch.where or a mask of fixed shape; for "
                  "a mixture of experts a grouped or batched product; for "
                  "checks of values torch._check or none")
    text = (f"cannot capture {type(model).__name__}: {reason}; at "
            f"{_user_line(error)}; {advice}")
    if second is not None and reason_of(second) != reason_of(error) \
            and not _is_data_dependent(second):
        text += f" (traced without torch.export: {reason_of(second)})"
    return CaptureError(text)


def reason_of(error: Exception) -> str:
    """The first line of what an exception says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_data_dependent(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}"
    return bool(_DATA_DEPENDENT.search(text))


def _user_line(error: BaseException) -> str:
    """The innermost frame that belongs to no part of torch."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if "/torch/" not in f.filename
        and "<" not in f.filename and "/planner/capture/" not in f.filename
    ]
    if not own:
        return "an unknown line"
    frame = own[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
