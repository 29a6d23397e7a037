"""Plain ``transformers.generate``: the baseline that everyone knows."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.techniques.backend import Backend
from workbench.techniques.base import Claim, Paper, control


@dataclass(frozen=True)
class Transformers(Backend):
    """Plain transformers.generate on the untouched model: the baseline that everyone knows.

    bfloat16 and float32 as they are; int8 and int4 through torchao where it is installed."""

    title = "transformers.generate"
    paper = Paper("1910.03771", "Wolf et al. 2019")
    claim = Claim("one interface to every published architecture")
    module = "transformers"
    extra = ""
    attention: str = control("sdpa", choices=("sdpa", "eager"),
                             help="transformers' attention implementation")
