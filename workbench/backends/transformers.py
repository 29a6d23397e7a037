"""Plain ``transformers.generate``, as its documentation shows it; only watched from outside."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.backends.base import Facts, Held, Missing, Opening, Request
from workbench.errors import ModelError, SettingsError

if TYPE_CHECKING:
    import torch

    from workbench.settings import Settings


def start(opening: Opening) -> Transformers:
    """Raises ModelError, SettingsError."""
    return Transformers(opening)


class Transformers:
    """One model of transformers with its own cache."""

    def __init__(self, opening: Opening) -> None:
        import transformers

        from workbench.runtime.loading import Loaded, choose_device
        from workbench.runtime.model import set_threads

        settings = opening.settings
        set_threads(settings.compute.threads)
        self.title = f"transformers.generate {transformers.__version__}"
        self._where = choose_device(settings.compute.device)
        self.device = str(self._where)
        dtype = settings.weights.compute_dtype
        self._model, self._from = _model(opening, dtype)
        self._scheme, self._why = _quantize(self._model, settings)
        self._model.to(self._where).eval()
        self.loaded: Loaded | None = Loaded(self._model, opening.tokenizer, "", opening.shape, self._where,
                             self._model.dtype)
        self._past: Any = None

    # -- the protocol -----------------------------------------------------------------------

    def generate(self, request: Request) -> None:
        import torch
        from transformers.generation.streamers import BaseStreamer

        class Tokens(BaseStreamer):
            """Gets the prompt first, then every token."""

            prompt = True

            def put(self, value: torch.Tensor) -> None:
                if self.prompt:
                    self.prompt = False
                    return
                for token in value.reshape(-1).tolist():
                    request.token(token)

            def end(self) -> None:
                pass

        self._model.generation_config.eos_token_id = None  # what stops a text is in the request
        ids = torch.tensor([request.ids], device=self._where)
        with torch.inference_mode(), self._seen(request):
            self._model.generate(
                ids, attention_mask=torch.ones_like(ids), streamer=Tokens(),
                max_new_tokens=request.max_new_tokens, pad_token_id=0,
                eos_token_id=sorted(request.stops) or None,
                **self._sampling(request.settings))

    def extend(self, ids: list[int], base: int) -> torch.Tensor | None:
        import torch
        from transformers import DynamicCache

        if base == 0:
            self._past = DynamicCache(config=self._model.config)
        with torch.inference_mode():
            out = self._model(torch.tensor([ids], device=self._where), past_key_values=self._past,
                              use_cache=True)
        logits: torch.Tensor = out.logits[0].float()
        return logits

    def facts(self, settings: Settings) -> Facts:
        backend: Any = settings.backend
        found: Facts = {
            **Missing("transformers.generate", {
                "kv": ("DynamicCache in the compute dtype", "full"),
                "tiers": ("all resident", "resident"), "decoding": ("plain", "plain")}).facts(settings),
            "weights": (self._scheme, self._why),
            "model.source": (self._from, ""),
            "attention": (f"transformers, {backend.attention}", ""),
            "compute.device": (f"{self.device} ({self._model.dtype})", "")}
        if settings.sampling.temperature > 0:
            found["seed"] = (str(settings.seed), "transformers draws its own noise from the seed, so "
                             "the text is another than the native runtime's")
        return found

    def held(self) -> Held:
        from workbench.runtime.memory import module_bytes

        return Held(sum(module_bytes(self._model).values()), None,
                    "resident set of the engine process")

    def close(self) -> None:
        from workbench.runtime.model import give_back

        self._model = self._past = self.loaded = None
        give_back(self._where)

    # -- parts ------------------------------------------------------------------------------

    def _sampling(self, settings: Settings) -> dict[str, Any]:
        import torch

        s = settings.sampling
        if s.temperature == 0:
            return {"do_sample": False}
        torch.manual_seed(settings.seed)
        return {"do_sample": True, "temperature": s.temperature, "top_k": s.top_k or None,
                "top_p": s.top_p}

    @contextmanager
    def _seen(self, request: Request) -> Iterator[None]:
        """Tell the monitor of every forward; a cancel is heard before every layer of the prompt."""
        from workbench.runtime.guard import layers_of

        count = [0]

        def name() -> str:
            return "decode" if count[0] else "prefill"

        def rows() -> int:
            return 1 if count[0] else len(request.ids)

        def before(*_: Any) -> None:
            if request.monitor is not None:
                request.monitor.before(name(), count[0], rows())

        def after(*_: Any) -> None:
            if request.monitor is not None:
                request.monitor.after(name(), count[0], rows())
            count[0] += 1

        handles = [self._model.register_forward_pre_hook(before),
                   self._model.register_forward_hook(after)]
        if len(request.ids) > 64:
            handles += [layer.register_forward_pre_hook(lambda *_: request.check())
                        for layer in layers_of(self._model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _model(opening: Opening, dtype: str) -> tuple[Any, str]:
    """(the module, where its weights came from)."""
    import torch
    from transformers import AutoModelForCausalLM

    settings, source = opening.settings, opening.source
    backend: Any = settings.backend
    if source.random or source.gguf is not None:
        return _ours(opening, dtype), f"{settings.model.source}, read by the workbench's loader"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.folder, dtype=getattr(torch, dtype), attn_implementation=backend.attention,
            local_files_only=True, trust_remote_code=settings.model.trust_remote_code,
            use_safetensors=None if settings.model.allow_pickle else True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ModelError(f"transformers cannot read the model in {source.folder} ({reason})") from None
    return model, f"{settings.model.source}, read by transformers"


def _ours(opening: Opening, dtype: str) -> Any:
    """The same numbers as the native runtime has, in transformers' own modules."""
    from torch import nn

    from workbench.runtime.loading import load_model
    from workbench.runtime.packed import Dense

    plain = opening.settings.with_({"weights": "fp32" if dtype == "float32" else "bf16",
                                    "tiers": "resident", "backend": "native"})
    model = load_model(plain, opening.emit, opening.cancelled).model
    for name, module in list(model.named_modules()):
        if isinstance(module, Dense):
            linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None,
                               device="meta")
            linear.weight = module.weight
            linear.register_parameter("bias", module.bias)  # type: ignore[arg-type]
            parent, _, key = name.rpartition(".")
            setattr(model.get_submodule(parent), key, linear)
    backend: Any = opening.settings.backend
    model.set_attn_implementation(backend.attention)
    return model


def _quantize(model: Any, settings: Settings) -> tuple[str, str]:
    """torchao's weight-only kernels for int8 and int4; (what the weights are, why they differ)."""
    name, weights = settings.weights.name(), settings.weights
    if name in ("bf16", "fp32"):
        return f"{model.dtype}, torch.nn.Linear", ""
    if name not in ("int8", "int4"):
        raise SettingsError(f"transformers.generate has no counterpart of weights={name}; choose bf16, "
                            "fp32, or int8 and int4 (through torchao)")
    if importlib.util.find_spec("torchao") is None:
        return f"{model.dtype}, torch.nn.Linear", (
            f"plain transformers has no {name}; install torchao for it "
            "(pip install 'inference-workbench[torchao]')")
    import torchao.quantization as ao

    config: Any = ao.Int8WeightOnlyConfig() if name == "int8" else _int4(ao, weights)
    try:
        ao.quantize_(model.model, config)  # the head stays, as in the native runtime
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise SettingsError(f"torchao cannot make {name} of this model here ({reason}); choose bf16, "
                            "or backend=native") from None
    return f"torchao {type(config).__name__} (W{name[3:]}A16)", ""


def _int4(ao: Any, weights: Any) -> Any:
    """torchao's own default layout; versions without one for this device refuse, and that is told."""
    return ao.Int4WeightOnlyConfig(group_size=weights.group)
