"""llama.cpp through llama-cpp-python, on a GGUF file that is made when there is none."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.techniques.backend import Backend
from workbench.techniques.base import Claim, Paper, control


@dataclass(frozen=True)
class LlamaCpp(Backend):
    """llama.cpp, on a GGUF file: the model's own, or one converted as the weights setting says.

    bf16 becomes BF16 or F16, int8 Q8_0, int4 Q4_1 (Q4_0 when symmetric). Its block kernels also round
    activations to 8 bits, so the effective settings call them W8A8 and W4A8."""

    title = "llama.cpp"
    paper = Paper("", "github.com/ggml-org/llama.cpp")
    claim = Claim("LLM inference in plain C/C++ with block formats of 1.5 to 8 bits")
    lossless = False
    module = "llama_cpp"
    extra = "llama-cpp"
    plain: str = control("F16", choices=("F16", "BF16"), help="what bf16 weights become")
    flash: bool = control(True, help="llama.cpp's fused attention")
    gpu_layers: int = control(-1, -1, 1000, soft=(-1, 100),
                              help="layers on a GPU, when its build has one; -1: all")
