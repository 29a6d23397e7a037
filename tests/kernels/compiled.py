"""Run as a program: compile every Triton kernel for compute capability 9.0, without a GPU.

Prints JSON: kernel -> number of matrix-multiply instructions in its PTX. Exit code 3: this Triton
has no CUDA compiler.
"""

from __future__ import annotations

import json
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from workbench.kernels.bit_planes import gpu as bits
from workbench.kernels.decode_attention import gpu as attention
from workbench.kernels.kivi import gpu as kivi
from workbench.kernels.kv_int8 import gpu as kv
from workbench.kernels.rmsnorm import gpu as rmsnorm
from workbench.kernels.rope import gpu as rope
from workbench.kernels.swiglu import gpu as swiglu
from workbench.kernels.w4a16_gemm import gpu as w4
from workbench.kernels.w8a16_gemm import gpu as w8

#: Pointer arguments by name; every other argument is an int32 or, for ``scaling``, a float.
POINTERS = {
    "x": "*bf16",
    "packed": "*u8",
    "pairs": "*bf16",
    "scale": "*bf16",
    "query": "*bf16",
    "keys": "*i8",
    "values": "*i8",
    "key_scales": "*bf16",
    "value_scales": "*bf16",
    "out": "*fp32",
    "best": "*fp32",
    "total": "*fp32",
    "scaling": "fp32",
}


def products(kernel: object, constants: dict[str, object], **pointers: str) -> int:
    names = kernel.arg_names  # type: ignore[attr-defined]
    types = {n: "constexpr" if n in constants else {**POINTERS, **pointers}.get(n, "i32") for n in names}
    done = triton.compile(
        ASTSource(kernel, types, constants), target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}
    )
    return int(done.asm["ptx"].count("mma.sync") + done.asm["ptx"].count("wgmma.mma_async.sync"))


def main() -> None:
    if "nvidia" not in triton.backends.backends:
        print("this triton has no CUDA compiler")
        sys.exit(3)
    bf16 = tl.bfloat16
    found = {
        f"w4a16 g{g} {m}x{n}": products(
            w4._kernel, {"GROUP": g, "BM": m, "BN": n, "SPLIT": 4, "DOT": bf16}, y="*fp32"
        )
        for g in (32, 128)
        for m, n in ((16, 32), (64, 64))
    }
    found |= {
        f"w8a16 {m}x{n}": products(w8._kernel, {"BM": m, "BN": n, "BK": k, "DOT": bf16}, q="*i8", y="*bf16")
        for m, n, k in ((16, 32, 128), (64, 64, 64))
    }
    found["kv_int8 quantize"] = products(kv._quantize, {"BR": 16, "BD": 64}, q="*i8")
    found["kv_int8 attend"] = products(
        kv._attend, {"BM": 16, "BN": 64, "BD": 64, "BE": 64, "SPLIT": 4, "DOT": bf16}
    )
    found |= {
        f"bit_planes {b}": products(
            bits._kernel,
            {"BITS": b, "GROUP": 64, "BM": 16, "BN": 64, "SPLIT": 4, "DOT": bf16},
            planes="*u8",
            y="*fp32",
        )
        for b in (1, 3, 8)
    }
    wide = {"BM": 16, "BN": 64, "BD": 128, "BE": 128, "DOT": bf16}
    found["stream-k"] = products(
        attention._parts, wide, keys="*bf16", values="*bf16", lengths="*i32", starts="*i32", first="*i32"
    )
    found["kivi attend"] = products(
        kivi._attend,
        {"BITS": 2, "VBITS": 2, "GROUP": 32, "VGROUP": 32, "BM": 16, "BD": 128, "SPLIT": 4, "DOT": bf16},
        keys="*u8",
        values="*u8",
        packed="i32",
        key_pairs="*bf16",
        value_pairs="*bf16",
        key_rest="*bf16",
        value_rest="*bf16",
    )
    plain = {
        "stream-k join": (attention._join, {"BE": 128}, {"starts": "*i32", "y": "*fp32"}),
        "kivi pack": (kivi._pack, {"BITS": 2, "GROUP": 32, "BR": 16}, {"pairs": "*bf16"}),
        "rmsnorm": (
            rmsnorm._norm,
            {"ADD": True, "BD": 4096},
            {"weight": "*bf16", "residual": "*fp32", "y": "*bf16", "stream": "*fp32", "eps": "fp32"},
        ),
        "rope": (
            rope._rotate,
            {"BH": 16, "BD": 64},
            {"positions": "*i64", "frequency": "*fp32", "y": "*bf16"},
        ),
        "swiglu": (swiglu._swiglu, {"BD": 1024}, {"gate": "*bf16", "up": "*bf16", "y": "*bf16"}),
    }
    found |= {
        f"plain {name}": products(kernel, constants, **pointers)
        for name, (kernel, constants, pointers) in plain.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
