"""The C structures of ``linear.h`` and the argument types of the library's functions."""

from __future__ import annotations

import ctypes
from typing import Any

I32 = ctypes.c_int32
F32 = ctypes.c_float
ADDRESS = ctypes.c_void_p
BF16, INT8, INT4, SPARSE, FIELDS, E4M3, E5M2 = range(7)
(SCALE_NONE, SCALE_PAIR, SCALE_ROW, SCALE_HALF, SCALE_K, SCALE_E8M0, SCALE_E4M3, SCALE_UE5M3,
 SCALE_DOUBLE, SCALE_BF16) = range(10)
A16, A8 = 0, 1


class Weight(ctypes.Structure):
    """A stored matrix; see ``linear.h``."""

    _fields_ = [("kind", I32), ("scale", I32), ("activations", I32), ("rows", I32),
                ("columns", I32), ("padded", I32), ("group", I32), ("bits", I32), ("data", ADDRESS),
                ("scales", ADDRESS), ("levels", ADDRESS), ("unit", F32), ("middle", F32)]

    @classmethod
    def over(cls, tensors: tuple[Any, ...], **fields: float) -> Weight:
        """One that keeps alive what it points to."""
        made = cls(**fields)
        made.kept = tensors
        return made


class Product(ctypes.Structure):
    """One result of ``wb_linear``."""

    _fields_ = [("weight", ctypes.POINTER(Weight)), ("bias", ADDRESS), ("y", ADDRESS), ("y_bf16", I32),
                ("prompt", I32)]


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    library.wb_linear.restype = I32
    library.wb_linear.argtypes = [ctypes.POINTER(Product), I32, ADDRESS, I32]
    library.wb_isa.restype = ctypes.c_char_p
    library.wb_isa.argtypes = []
    library.wb_set_threads.restype = None
    library.wb_set_threads.argtypes = [I32]
    library.wb_threads.restype = I32
    library.wb_threads.argtypes = []
    return library
