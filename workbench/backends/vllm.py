"""vLLM: its engine stepped here, one request at a time, so that every token is seen when it is there.

Written against vLLM's ``LLM`` and ``LLMEngine.step`` (0.10); it needs a CUDA GPU, so this file has not run
where there was none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.backends.base import Facts, Held, Missing, Opening, Request
from workbench.errors import Cancelled, ModelError, SettingsError

if TYPE_CHECKING:
    import torch

    from workbench.settings import Settings


def start(opening: Opening) -> Vllm:
    """Raises SettingsError for what vLLM cannot open, ModelError where it fails to."""
    return Vllm(opening)


class Vllm:
    """One engine on one or more GPUs. A cancel is heard between tokens."""

    loaded = None
    device = "cuda"

    def __init__(self, opening: Opening) -> None:
        import vllm

        self._api = vllm
        self.title = f"vLLM {vllm.__version__}"
        settings, source = opening.settings, opening.source
        backend: Any = settings.backend
        self._gpus = backend.gpus
        if source.gguf is not None:
            raise SettingsError("backend=vllm is driven with safetensors; open the model's folder, or "
                                "choose backend=llama_cpp for a GGUF file")
        options: dict[str, Any] = {
            "model": str(source.folder), "dtype": settings.weights.compute_dtype,
            "tensor_parallel_size": backend.gpus, "gpu_memory_utilization": backend.memory,
            "enforce_eager": not backend.graphs, "seed": settings.seed % 2**31,
            "trust_remote_code": settings.model.trust_remote_code,
            "kv_cache_dtype": "fp8" if settings.kv.name() == "int8" else "auto",
            "max_model_len": opening.shape.max_positions, "enable_prefix_caching": False}
        if source.random:
            options["load_format"] = "dummy"
        try:
            self._engine = vllm.LLM(**options).llm_engine
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:160]
            raise ModelError(f"vLLM cannot open {source.folder} ({reason})") from None
        self._count = 0

    def generate(self, request: Request) -> None:
        self._count += 1
        name, seen = f"workbench-{self._count}", 0
        self._engine.add_request(name, {"prompt_token_ids": request.ids}, self._rule(request))
        try:
            while self._engine.has_unfinished_requests():
                request.check()
                for output in self._engine.step():
                    tokens = output.outputs[0].token_ids
                    new, seen = list(tokens)[seen:], len(tokens)
                    if any(request.token(int(t)) for t in new):
                        return
        except Cancelled:
            self._engine.abort_request([name])
            raise

    def _rule(self, request: Request) -> Any:
        s = request.settings.sampling
        return self._api.SamplingParams(
            temperature=s.temperature, top_k=s.top_k or -1, top_p=s.top_p,
            seed=request.settings.seed % 2**31, max_tokens=request.max_new_tokens,
            ignore_eos=not request.stops, stop_token_ids=sorted(request.stops) or None,
            detokenize=False)

    def extend(self, ids: list[int], base: int) -> torch.Tensor | None:
        return None

    def facts(self, settings: Settings) -> Facts:
        found = Missing("vLLM").facts(settings)
        name, kv = settings.weights.name(), settings.kv.name()
        plain = name in ("bf16", "fp32")
        found["weights"] = (settings.weights.compute_dtype, "" if plain else
                            f"vLLM quantizes ahead of time; open a checkpoint that is {name} already")
        for knob in settings.weights.controls():
            found[f"weights.{knob.name}"] = ("not used", "" if plain else "nothing is quantized")
        found["kv"] = ("fp8, paged" if kv == "int8" else "paged, in the compute dtype",
                       "vLLM has fp8 instead of int8" if kv == "int8" else "")
        found["attention"] = ("vLLM's own choice for this GPU", "")
        found["compute.device"] = (f"{self._gpus} GPU(s)", "" if settings.compute.device in (
            "auto", "cuda", "cuda:0") else "vLLM takes the GPUs in order")
        if settings.compute.threads:
            found["compute.threads"] = ("vLLM's own", "its work is on the GPU")
        if settings.sampling.temperature > 0:
            found["seed"] = (str(settings.seed), "vLLM draws its own noise from the seed")
        return found

    def held(self) -> Held:
        import torch

        free, total = torch.cuda.mem_get_info()
        return Held(None, None, "device memory in use, by all processes; vLLM does not say what for",
                    "gpu", total - free)

    def close(self) -> None:
        import torch

        from workbench.runtime.model import give_back

        self._engine = None
        give_back(torch.device("cuda"))
