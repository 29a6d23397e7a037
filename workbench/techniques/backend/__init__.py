"""Backend: which engine runs the model. The native runtime, or a peer that is installed here.

A peer gets the same prompts, settings and clock and sends the same events; what it cannot honour is
reported setting by setting, with the reason. The driving code is in ``workbench/backends``.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workbench.techniques.base import Technique

if TYPE_CHECKING:
    from workbench.machine import Machine
    from workbench.shape import ModelShape


@dataclass(frozen=True)
class Backend(Technique):
    """Protocol of the family."""

    #: The module that must be importable, and the extra of this package that installs it.
    module: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def missing(self) -> str | None:
        """One sentence that names the extra when the engine is not installed here, else None.

        Looks for the package without importing it. An engine on another machine looks for itself."""
        if not self.module or importlib.util.find_spec(self.module) is not None:
            return None
        what = f"inference-workbench[{self.extra}]" if self.extra else "inference-workbench"
        return (f"backend={self.name()} needs the package {self.module}; install it with "
                f"pip install '{what}'")

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        if shape.canvas and self.module:
            return f"backend={self.name()} does not run masked-diffusion models; choose native"
        return super().applies(shape, machine) or self.missing()
