"""What a module is called with: checked once, in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from workbench.errors import OutOfMemory, SettingsError

_FORMS = "a tensor, a tuple of arguments, a dict of keywords, or a function that makes one of these"


@dataclass(frozen=True)
class Call:
    """Arguments of one forward."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def tensors(self) -> Iterator[Any]:
        """Every tensor in the arguments, nested ones included."""
        return _tensors([*self.args, *self.kwargs.values()])

    @property
    def items(self) -> int:
        """Size of the first tensor's first dimension: what a batch counts; 1 without any."""
        first = next((t for t in self.tensors() if t.dim() > 0), None)
        return int(first.shape[0]) if first is not None else 1

    def __str__(self) -> str:
        return ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}"
                         for t in self.tensors()) or "no tensors"


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _tensors(v)


def maker(inputs: Any) -> Callable[[], Call]:
    """A function that gives the arguments of the next forward. Raises SettingsError."""
    import torch

    if callable(inputs) and not isinstance(inputs, torch.Tensor | torch.nn.Module):
        return lambda: _call(inputs())
    one = _call(inputs)
    return lambda: one


def _call(value: Any) -> Call:
    import torch

    if isinstance(value, torch.Tensor):
        return Call((value,), {})
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise SettingsError("a dict of inputs is passed as keywords; its keys must be names")
        return Call((), dict(value))
    if isinstance(value, list | tuple):
        return Call(tuple(value), {})
    raise SettingsError(f"inputs of type {type(value).__name__} cannot be passed on; give {_FORMS}")


def check_module(module: Any) -> None:
    """Raises SettingsError for what is not a module."""
    import torch

    if isinstance(module, type) and issubclass(module, torch.nn.Module):
        raise SettingsError(f"{module.__name__} is a class; make one first: {module.__name__}(...)")
    if not isinstance(module, torch.nn.Module):
        raise SettingsError(f"{type(module).__name__} is not a torch.nn.Module; wrap the function in "
                            "a module whose forward calls it")


def device_of(module: Any, call: Call) -> Any:
    """Where it runs. Raises SettingsError when module and inputs are on different devices."""
    import torch

    held = {t.device for t in [*module.parameters(), *module.buffers()]}
    given = {t.device for t in call.tensors()}
    if any(d.type == "meta" for d in held):
        raise SettingsError("the module has parameters on the meta device, so without values; load "
                            "them, or use module.to_empty(device='cpu')")
    found = sorted({d.type for d in held | given})
    if len(found) > 1:
        raise SettingsError(f"module and inputs are on different devices ({', '.join(found)}); move "
                            "one of them with .to(device)")
    return next(iter(held or given), torch.device("cpu"))


def try_once(module: Any, call: Call) -> Any:
    """The first forward: what is wrong with shapes and types shows here, in one sentence."""
    try:
        return module(*call.args, **call.kwargs)
    except MemoryError:
        raise OutOfMemory(f"{type(module).__name__} does not fit in memory with {call}; use a smaller "
                          "batch") from None
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        if "out of memory" in said.lower() or "can't allocate" in said:
            raise OutOfMemory(f"{type(module).__name__} does not fit in memory with {call}; use a "
                              "smaller batch") from None
        raise SettingsError(f"{type(module).__name__} cannot run on {call} ({type(error).__name__}: "
                            f"{said}); give what its forward takes") from error
