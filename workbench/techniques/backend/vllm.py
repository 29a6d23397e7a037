"""vLLM: paged attention and continuous batching on GPUs, also several."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.techniques.backend import Backend
from workbench.techniques.base import Claim, Paper, control


@dataclass(frozen=True)
class Vllm(Backend):
    """vLLM: continuous batching over paged key-value memory on one or more GPUs."""

    title = "vLLM"
    paper = Paper("2309.06180", "Kwon et al. 2023")
    claim = Claim("2-4x the throughput of earlier servers at the same latency",
                  setup="OPT and LLaMA 13B to 175B on A100s, many requests at once")
    lossless = True
    needs = ("cuda",)
    module = "vllm"
    extra = "vllm"
    gpus: int = control(1, 1, 64, soft=(1, 8), help="GPUs that share each layer (tensor parallel)")
    memory: float = control(0.9, 0.1, 1.0, step=0.05, help="share of each GPU's memory to take")
    graphs: bool = control(True, help="CUDA graphs; off runs eagerly")
