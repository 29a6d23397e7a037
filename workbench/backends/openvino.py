"""OpenVINO GenAI: an ``LLMPipeline`` fed with token ids, watched through its streamer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.backends.base import Facts, Held, Missing, Opening, Request
from workbench.backends.files import file_for, weights_fact
from workbench.errors import Cancelled, ModelError, SettingsError

if TYPE_CHECKING:
    import torch

    from workbench.settings import Settings


def start(opening: Opening) -> Openvino:
    """Raises ModelError where OpenVINO cannot read the model."""
    return Openvino(opening)


class Openvino:
    """One pipeline. A prompt that is being read cannot be stopped; between tokens it can."""

    loaded = None

    def __init__(self, opening: Opening) -> None:
        import openvino_genai

        self._api = openvino_genai
        self.title = f"OpenVINO GenAI {openvino_genai.__version__}"
        settings = opening.settings
        backend: Any = settings.backend
        device = settings.compute.device
        if device not in ("auto", "cpu"):
            raise SettingsError(f"backend=openvino is driven on CPUs, not on {device}; set "
                                "compute.device=cpu")
        self.device = "cpu"
        exported = opening.source.folder / "openvino_model.xml"
        self._file = None if exported.is_file() else file_for(opening, "F16")
        path = opening.source.folder if self._file is None else self._file.path
        self._options = _options(settings, backend)
        try:
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.enable_prefix_caching = False  # a prompt seen before would look read at once
            self._pipe = openvino_genai.LLMPipeline(str(path), "CPU", scheduler_config=scheduler,
                                                    **self._options)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:160]
            raise ModelError(f"OpenVINO cannot open {path} ({reason}); export the model with "
                             "optimum-cli export openvino, and give that folder") from None

    def generate(self, request: Request) -> None:
        import numpy as np
        import openvino

        api, stopped = self._api, [False]

        class Tokens(api.StreamerBase):  # type: ignore[misc,name-defined]
            """Gets every token as soon as it is sampled."""

            def __init__(self) -> None:
                super().__init__()
                self.last = False

            def write(self, tokens: Any) -> Any:
                for token in [tokens] if isinstance(tokens, int) else list(tokens):
                    if self.last:
                        break
                    try:
                        self.last = request.token(int(token))
                    except Cancelled:
                        stopped[0] = self.last = True
                status = api.StreamingStatus
                return status.STOP if self.last else status.RUNNING

            def end(self) -> None:
                pass

        ids = openvino.Tensor(np.asarray([request.ids], dtype=np.int64))
        mask = openvino.Tensor(np.ones((1, len(request.ids)), dtype=np.int64))
        self._pipe.generate(api.TokenizedInputs(ids, mask), self._rule(request), Tokens())
        if stopped[0]:
            raise Cancelled("cancelled")

    def _rule(self, request: Request) -> Any:
        sampling = request.settings.sampling
        rule = self._api.GenerationConfig()
        rule.max_new_tokens, rule.ignore_eos = request.max_new_tokens, True
        rule.do_sample = sampling.temperature > 0
        if rule.do_sample:
            rule.temperature, rule.top_p = sampling.temperature, sampling.top_p
            if sampling.top_k:
                rule.top_k = sampling.top_k
            rule.rng_seed = request.settings.seed % 2**31
        return rule

    def extend(self, ids: list[int], base: int) -> torch.Tensor | None:
        return None

    def facts(self, settings: Settings) -> Facts:
        backend: Any = settings.backend
        found = Missing("OpenVINO GenAI", {
            "kv": ("OpenVINO's own (8-bit by default on CPUs)", ""),
            "tiers": ("all resident", "resident"), "decoding": ("plain", "plain")}).facts(settings)
        found["kv"] = ("8 bits per number, OpenVINO's default on a CPU",
                       "" if settings.kv.name() == "int8" else "its default cache is quantized")
        for knob in settings.kv.controls():
            found[f"kv.{knob.name}"] = ("not used", "OpenVINO has its own groups")
        for knob in settings.weights.controls():
            found[f"weights.{knob.name}"] = ("not used", "the block format fixes it")
        if self._file is not None:
            found["weights"] = weights_fact(self._file, str(settings.weights),
                                            rounds=backend.activations > 0)
        else:
            found["weights"] = ("as exported in openvino_model.xml",
                                "" if settings.weights.name() == "bf16" else
                                "the exported model fixes its weights")
        found["attention"] = ("OpenVINO scaled dot product", "")
        found["compute.device"] = (f"cpu ({self._options.get('INFERENCE_PRECISION_HINT', 'plugin')})",
                                   "")
        if settings.sampling.temperature > 0:
            found["seed"] = (str(settings.seed), "OpenVINO draws its own noise from the seed")
        return found

    def held(self) -> Held:
        size = None if self._file is None else self._file.path.stat().st_size
        return Held(size, None, "resident set; OpenVINO does not say what it is for")

    def close(self) -> None:
        self._pipe = None


def _options(settings: Settings, backend: Any) -> dict[str, Any]:
    """The plugin's properties, by OpenVINO's names."""
    found: dict[str, Any] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(backend.activations)}
    if backend.precision != "auto":
        found["INFERENCE_PRECISION_HINT"] = backend.precision
    if settings.compute.threads:
        found["INFERENCE_NUM_THREADS"] = settings.compute.threads
    return found
