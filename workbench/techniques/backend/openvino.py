"""OpenVINO GenAI: Intel's runtime, on an exported folder or a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.techniques.backend import Backend
from workbench.techniques.base import Claim, Paper, control


@dataclass(frozen=True)
class Openvino(Backend):
    """OpenVINO GenAI, on a folder with openvino_model.xml, or on a GGUF file made for it.

    bf16 becomes F16, int8 Q8_0 and int4 Q4_0 (Q4_1 is read as well); the plugin may compute in bfloat16
    and round activations in groups, which the effective settings say."""

    title = "OpenVINO GenAI"
    paper = Paper("", "github.com/openvinotoolkit/openvino.genai")
    claim = Claim("optimized generation on Intel processors")
    lossless = False
    module = "openvino_genai"
    extra = "openvino"
    precision: str = control("auto", choices=("auto", "f32", "bf16"),
                             help="what the plugin computes in (INFERENCE_PRECISION_HINT)")
    activations: int = control(32, choices=(0, 32, 64, 128),
                               help="columns that share an activation's scale when they are rounded "
                                    "to 8 bits; 0 keeps activations unrounded")
