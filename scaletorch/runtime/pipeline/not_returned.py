"""What stands in a pipeline's result for outputs that nobody asked for."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["NotReturned"]


class NotReturned:
    """An output that was left on its stage; any use of it is an error.

    Returning None instead would let a loop go on with nothing.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return 'an output that was not returned: pass outputs="global"'

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Protocols (copying, printing) ask for what they may use.
            raise AttributeError(name)
        _refuse()

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        _refuse()


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "this output was not returned: while a pipeline trains, outputs beside "
        "the loss stay on the ranks that compute them; call the model with "
        'outputs="global" to have them on every rank, or under '
        "torch.no_grad(), where they come by themselves")


for _name in ("getitem", "iter", "len", "bool", "float", "int", "add", "radd",
              "sub", "rsub", "mul", "rmul", "truediv", "matmul", "neg", "lt",
              "le", "gt", "ge"):
    setattr(NotReturned, f"__{_name}__", _refuse)
