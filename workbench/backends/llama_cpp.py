"""llama.cpp, driven through its C interface: batches of rows in, logits out.

Sampling is ours, so a seed means the same here as in the native runtime; the loop per token is one call
of ``llama_decode`` and one reading of a row of logits.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from workbench.backends.base import Facts, Held, Missing, Opening, Request
from workbench.backends.files import Chosen, file_for, weights_fact
from workbench.errors import Cancelled, ModelError, OutOfMemory

if TYPE_CHECKING:
    import torch

    from workbench.settings import Settings

#: Rows of one call while a prompt is read.
_BATCH = 512
_ABORTED = 2


def start(opening: Opening) -> LlamaCpp:
    """Raises ModelError where llama.cpp cannot read the file."""
    return LlamaCpp(opening)


class LlamaCpp:
    """One model and, per run, one context."""

    loaded = None

    def __init__(self, opening: Opening) -> None:
        import llama_cpp

        self._c = llama_cpp
        self._quiet()
        self.title = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
        backend: Any = opening.settings.backend
        self.file: Chosen = file_for(opening, backend.plain)
        how = llama_cpp.llama_model_default_params()
        offload = llama_cpp.llama_supports_gpu_offload()
        how.n_gpu_layers = backend.gpu_layers if offload else 0
        self.device = "cuda" if offload and backend.gpu_layers else "cpu"
        how.use_extra_bufts = self._repacked = self._may_repack()
        self._model = llama_cpp.llama_model_load_from_file(str(self.file.path).encode(), how)
        if not self._model:
            raise ModelError(f"llama.cpp cannot read {self.file.path}; its version may be too old for "
                             "this architecture")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._context: Any = None
        self._made_for: tuple[Any, ...] = ()
        self._positions = opening.shape.max_positions
        self._settings = opening.settings
        self._kv_bytes = 0
        self._shape = opening.shape

    def _may_repack(self) -> bool:
        """Builds for AMX are asked once, in a child, whether they survive; others repack always."""
        from workbench.backends.llama_probe import survives

        if "AMX" not in self.system() or self.file.kind in ("F32", "F16", "BF16"):
            return True
        return survives(self.file.path, self.file.kind, self.title)

    def _quiet(self) -> None:
        """llama.cpp writes about every tensor to stderr; keep its errors."""
        @self._c.llama_log_callback
        def log(level: int, text: bytes, data: Any) -> None:
            if level == 4:
                os.write(2, text)

        self._log = log
        self._c.llama_log_set(log, ctypes.c_void_p(0))

    # -- the context ------------------------------------------------------------------------

    def _open(self, settings: Settings, tokens: int) -> None:
        backend: Any = settings.backend
        rounded = settings.kv.name() == "int8"
        size = (tokens + 255) // 256 * 256
        wanted = (size, settings.compute.threads, rounded, backend.flash)
        if self._context is not None and self._made_for == wanted:
            return self._c.llama_memory_clear(self._c.llama_get_memory(self._context), True)
        self._end()
        c = self._c
        how = c.llama_context_default_params()
        how.n_ctx, how.n_batch, how.n_ubatch = size, _BATCH, _BATCH
        how.n_threads = how.n_threads_batch = settings.compute.threads or _cores()
        how.flash_attn_type = 1 if backend.flash else 0
        kind = c.GGML_TYPE_Q8_0 if rounded else c.GGML_TYPE_F16
        how.type_k = how.type_v = kind
        how.no_perf = True
        self._context = c.llama_init_from_model(self._model, how)
        if not self._context:
            raise OutOfMemory(f"llama.cpp could not make a context of {size} tokens; lower "
                              "limits.max_new_tokens or shorten the prompt")
        self._batch = c.llama_batch_init(_BATCH, 0, 1)
        self._made_for = wanted
        self._kv_bytes = int(size * self._shape.kv_elements * (34 / 32 if rounded else 2))
        return None

    def _end(self) -> None:
        if self._context is not None:
            self._c.llama_batch_free(self._batch)
            self._c.llama_free(self._context)
        self._context, self._made_for, self._kv_bytes = None, (), 0

    def _decode(self, ids: list[int], base: int, every: bool) -> None:
        """One call for at most ``_BATCH`` rows; logits of all rows, or of the last."""
        batch = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, base + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = every or i == len(ids) - 1
        code = self._c.llama_decode(self._context, batch)
        if code == _ABORTED:
            raise Cancelled("cancelled")
        if code:
            raise ModelError(f"llama.cpp failed while computing {len(ids)} rows at {base} (code "
                             f"{code}); its log says why")

    def _row(self, index: int) -> torch.Tensor:
        """Float32 [V], a copy."""
        import numpy as np
        import torch

        pointer = self._c.llama_get_logits_ith(self._context, index)
        return torch.from_numpy(np.ctypeslib.as_array(pointer, shape=(self._vocab,)).copy())

    # -- the protocol -----------------------------------------------------------------------

    def generate(self, request: Request) -> None:
        from workbench.runtime.sampling import Sampler

        s = request.settings
        sampler = Sampler(s.sampling.temperature, s.sampling.top_k, s.sampling.top_p, s.seed)
        self._open(s, len(request.ids) + request.max_new_tokens)
        self._read(request)
        length = len(request.ids)
        while True:
            row = self._row(-1)[None]
            token = int(sampler.choose(row, [length], [request.sequence])[0])
            if request.token(token):
                return
            self._decode([token], length, False)
            length += 1

    def _read(self, request: Request) -> None:
        """The prompt; a cancel is heard between llama.cpp's own operations."""
        def asked(data: Any) -> bool:
            try:
                request.check()
            except Cancelled:
                return True
            return False

        c = self._c
        callback = c.ggml_abort_callback(asked)
        c.llama_set_abort_callback(self._context, callback, None)
        try:
            for base in range(0, len(request.ids), _BATCH):
                request.check()
                self._decode(request.ids[base:base + _BATCH], base, False)
        finally:
            c.llama_set_abort_callback(self._context, c.ggml_abort_callback(), None)

    def extend(self, ids: list[int], base: int) -> torch.Tensor | None:
        import torch

        if base == 0:
            self._open(self._settings, self._positions)
        rows = []
        for start in range(0, len(ids), _BATCH):
            part = ids[start:start + _BATCH]
            self._decode(part, base + start, True)
            rows += [self._row(i) for i in range(len(part))]
        return torch.stack(rows)

    def facts(self, settings: Settings) -> Facts:
        backend: Any = settings.backend
        rounded = settings.kv.name() == "int8"
        missing = Missing("llama.cpp").facts(settings)
        kv = "Q8_0" if rounded else "F16"
        weights = weights_fact(self.file, str(settings.weights), rounds=True)
        found: Facts = {
            **missing, "weights": weights,
            **{f"weights.{k.name}": ("not used", "the block format fixes it")
               for k in settings.weights.controls()},
            "kv": (f"{kv} cache of {self._kv_bytes} bytes", "" if settings.kv.name() in (
                "int8", "full") else f"llama.cpp keeps {kv}"),
            "attention": ("llama.cpp flash attention" if backend.flash else "llama.cpp", ""),
            "compute.device": (f"{self.device}: {self.system()}", ""),
            "compute.threads": (str(settings.compute.threads or _cores()), ""),
            "model.source": (str(self.file.path), "")}
        if not self._repacked:
            found["backend"] = (self.title, "its repacked kernels (AMX) crash on this machine, so they "
                                            "are switched off; a build without AMX is faster")
        if backend.gpu_layers not in (-1, 0) and self.device == "cpu":
            found["backend.gpu_layers"] = ("0", "this build of llama.cpp knows no GPU")
        return found

    def system(self) -> str:
        """The instruction sets that this build uses, from llama.cpp itself."""
        text = self._c.llama_print_system_info().decode()
        return " ".join(p.split("=")[0].strip() for p in text.split("|") if p.strip().endswith("1"))

    def held(self) -> Held:
        size = int(self._c.llama_model_size(self._model))
        return Held(size, self._kv_bytes, "resident set; llama.cpp maps the weights from their file")

    def close(self) -> None:
        self._end()
        if self._model:
            self._c.llama_model_free(self._model)
        self._model = None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
