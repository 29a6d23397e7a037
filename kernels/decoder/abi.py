"""The C structures of ``decoder.h`` and ``trace.h``."""

from __future__ import annotations

import ctypes

from workbench.kernels.decode_attention.abi import Attention, Kv, Rows

I32, I64 = ctypes.c_int32, ctypes.c_int64
ADDRESS = ctypes.c_void_p

#: Operation number -> name in traces; the name's first word is the operation's class.
OPERATIONS = {
    0: "embedding lookup", 1: "rms_norm", 2: "linear qkv", 3: "rope and kv write",
    4: "decode_attention", 5: "linear attention output", 6: "linear gate and up", 7: "swiglu",
    8: "linear down", 9: "linear output head"
}


class Matrix(ctypes.Structure):
    """A matrix: the product library's description of it, a float32 bias or 0, and what it costs."""

    _fields_ = [("weight", ADDRESS), ("bias", ADDRESS), ("bytes", I64), ("rows", I32),
                ("columns", I32)]


class Layer(ctypes.Structure):
    """One decoder layer; vectors are float32 addresses, 0 where the architecture has none."""

    _fields_ = [("norm", ADDRESS), ("mlp_norm", ADDRESS), ("q_norm", ADDRESS), ("k_norm", ADDRESS),
                *((name, Matrix) for name in ("q", "k", "v", "out", "gate", "up", "down"))]


class Plan(ctypes.Structure):
    """A whole model; built once."""

    _fields_ = [("layers", I32), ("hidden", I32), ("intermediate", I32), ("vocab", I32),
                ("kv_item", I32), ("positions", I32), ("eps", ctypes.c_float),
                ("attention", Attention), ("layer", ctypes.POINTER(Layer)), ("embedding", ADDRESS),
                ("norm", ADDRESS), ("head", Matrix), ("cos", ADDRESS), ("sin", ADDRESS)]


class Forward(ctypes.Structure):
    """One forward: its rows, tokens, caches and where the logits go."""

    _fields_ = [("rows", Rows), ("ids", ADDRESS), ("positions", ADDRESS), ("kv", ctypes.POINTER(Kv)),
                ("capacity", I32), ("keep", I32), ("logits", ADDRESS),
                ("states", ctypes.POINTER(ADDRESS)), ("input", ADDRESS), ("enter", I32),
                ("prompt", I32)]


class Record(ctypes.Structure):
    """One operation: times on CLOCK_MONOTONIC (Python's ``perf_counter``), nanoseconds."""

    _fields_ = [("op", I32), ("layer", I32), ("t0_ns", I64), ("t1_ns", I64), ("bytes", I64),
                ("flops", I64)]


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Argument types of the decoder's functions."""
    plan, forward = ctypes.POINTER(Plan), ctypes.POINTER(Forward)
    library.wb_decoder_scratch.restype = I64
    library.wb_decoder_scratch.argtypes = [plan, I32, I32, I32]
    library.wb_decoder_run.restype = I32
    library.wb_decoder_run.argtypes = [plan, forward, I32, I32, ADDRESS]
    library.wb_argmax.restype = None
    library.wb_argmax.argtypes = [ADDRESS, I32, I64, ADDRESS]
    library.wb_read.restype = ctypes.c_uint64
    library.wb_read.argtypes = [ADDRESS, I64]
    library.wb_trace_set.restype = None
    library.wb_trace_set.argtypes = [ctypes.POINTER(Record), I64]
    library.wb_trace_count.restype = I64
    library.wb_trace_count.argtypes = []
    return library
