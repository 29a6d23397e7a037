"""What kind of work an operator or kernel is, from its name."""

from __future__ import annotations

import functools

#: The first class whose fragment is in the name wins; order matters ("scaled_dot" before "dot").
_FRAGMENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dequant", ("dequant", "unpack_weight")),
    ("attention", ("attention", "scaled_dot", "sdpa", "flash", "fmha")),
    ("matmul", ("gemm", "gemv", "matmul", "::mm", "::addmm", "::bmm", "::linear", "int4pack",
                "int8pack", "_int_mm", "mkldnn", "onednn", "cutlass", "w4a16", "w8a16", "splitk",
                "::dot", "wgmma", "xmma")),
    ("norm", ("norm", "rsqrt", "::mean", "::var")),
    ("activation", ("silu", "gelu", "relu", "sigmoid", "tanh", "swiglu")),
    ("sampling", ("argmax", "multinomial", "topk", "sort", "softmax", "cumsum", "exponential")),
    ("embedding", ("embedding", "index_select", "gather")),
    ("copy", ("copy", "memcpy", "::to", "::cat", "::clone", "contiguous", "memset", "::fill", "::zero",
              "index_put", "scatter", "::item", "local_scalar")),
    ("elementwise", ("::add", "::mul", "::sub", "::div", "::neg", "::pow", "::cos", "::sin", "::where",
                     "elementwise", "::exp", "::rsub", "::masked", "::eq", "::lt", "::gt", "::le")),
    # Views and allocation: nothing is computed, the host's time is all they cost.
    ("shape", ("::as_strided", "::transpose", "::view", "::_unsafe_view", "::reshape", "::slice",
               "::select", "::expand", "squeeze", "::empty", "::permute", "::narrow", "::split",
               "::detach", "::resize", "::alias", "::unbind", "::chunk", "::unflatten", "::flatten",
               "::lift_fresh", "::set_", "::result_type", "::is_", "::broadcast")),
    ("reduction", ("::sum", "::max", "::min", "::any", "::all", "::arange", "::pad", "::constant_pad",
                   "::tril", "::triu")),
)

#: First word of what our own kernels call themselves.
_OURS = {"linear": "matmul", "decode_attention": "attention", "rms_norm": "norm", "rope": "elementwise",
         "swiglu": "activation", "embedding": "embedding"}


@functools.lru_cache(maxsize=4096)
def kernel_class(name: str) -> str:
    """One of ``matmul attention dequant norm activation elementwise copy sampling embedding shape
    reduction other``."""
    lowered = name.lower()
    if lowered == "aten::t":
        return "shape"
    ours = _OURS.get(lowered.partition(" ")[0])
    if ours is not None:
        return ours
    for kind, fragments in _FRAGMENTS:
        if any(f in lowered for f in fragments):
            return kind
    return "other"


def class_in(name: str, module: str, linear: frozenset[str] | set[str]) -> str:
    """The class of an operator that runs inside ``module`` (dotted path).

    Whatever a module that multiplies by a stored matrix does besides the product is unpacking that
    matrix or converting its input; products and softmax between projections are attention."""
    kind = kernel_class(name)
    if module in linear:
        return "dequant" if kind in ("copy", "elementwise") else kind
    if "attn" in module or "attention" in module:
        return "attention" if kind in ("matmul", "sampling") else kind
    return kind
