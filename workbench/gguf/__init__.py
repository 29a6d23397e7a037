"""GGUF files: names, metadata, tokenizer and tensors, as llama.cpp and its relatives read them.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Blocks are decoded by the
``gguf`` package, which is optional; :func:`package` says in one sentence what to install.
"""

from __future__ import annotations

import importlib
from typing import Any

from workbench.errors import MissingDependency


def package() -> Any:
    """The ``gguf`` package. Raises MissingDependency."""
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise MissingDependency("GGUF files need the gguf package; install it with "
                                "pip install 'inference-workbench[gguf]'") from None
