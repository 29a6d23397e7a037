"""Logits of one model under the configurations that this machine can run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, SettingsError, WorkbenchError
from workbench.settings import Settings

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Config:
    """``changes`` of the settings; ``rows``: copies of the prompt side by side; ``chunk``: tokens per
    forward (0: all at once); ``threads`` 0: torch's choice; ``onednn``: its kernels allowed;
    ``native``: our own kernels allowed, which forwards of a few rows use where there is a library."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    rows: int = 1
    chunk: int = 0
    threads: int = 0
    onednn: bool = True
    native: bool = True

    @property
    def special(self) -> bool:
        """Whether it is executed in another way than by default."""
        return self.rows > 1 or self.chunk > 0 or self.threads > 0 or not (
            self.onednn and self.native)


def available() -> list[Config]:
    """What can differ here: number formats, cache format, threads, rows, chunks, kernel library."""
    from workbench.techniques.base import family

    # what is calibrated first depends on its text too, and takes minutes
    weights = [n for n, c in family("weights").items() if not getattr(c, "calibrated", False)]
    found = [Config(f"weights={n}", {"weights": n}) for n in weights]
    first = {"weights": "fp32"} if "fp32" in weights else {}
    half = {"weights": "bf16"} if "bf16" in weights else {}
    cache = [Config(f"kv={n}", {**half, "kv": n}) for n in family("kvcache")
             if n != "full"]
    return [*found, *cache, Config("fp32, 1 thread", first, threads=1),
            Config("fp32, 4 rows", first, rows=4), Config("fp32, chunks of 8", first, chunk=8),
            Config("fp32, without oneDNN", first, onednn=False),
            Config("bf16, chunks of 8", half, chunk=8),
            Config("bf16, chunks of 8, torch kernels", half, chunk=8, native=False),
            Config("bf16, 4 rows", half, rows=4), Config("bf16, without oneDNN", half, onednn=False)]


@dataclass
class Collected:
    """``logits``: name -> float32 [prompts, vocabulary] of the last position; ``skipped``: name -> why;
    ``unsteady``: names whose second pass gave other bits than their first."""

    prompts: list[list[int]]
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unsteady: list[str] = field(default_factory=list)
    configs: dict[str, Config] = field(default_factory=dict)


def prompts_of(tokenizer: Any, count: int, length: int = 24) -> list[list[int]]:
    """``count`` different pieces of the bundled held-out texts, ``length`` tokens each."""
    from workbench import zoo

    ids = [i for d in zoo.evaluation_text() for i in tokenizer(d.text, verbose=False)["input_ids"]]
    if len(ids) < count * length:
        raise SettingsError(f"the bundled texts have {len(ids) // length} pieces of {length} tokens; ask "
                            "for fewer prompts")
    step = len(ids) // count
    return [ids[i * step:i * step + length] for i in range(count)]


def collect(configs: Sequence[Config], model: str = "bundled", count: int = 60,
            progress: Callable[[str, float], None] = lambda what, share: None,
            cancelled: Callable[[], bool] = lambda: False,
            prompts: list[list[int]] | None = None) -> Collected:
    """Run every configuration over the same prompts. A configuration that cannot run here is skipped
    with its reason. Raises ModelError, SettingsError, Cancelled."""
    found = Collected(prompts or [])
    for index, config in enumerate(configs):
        if cancelled():
            raise Cancelled("cancelled; nothing was saved")
        progress(config.name, index / len(configs))
        try:
            with opened(config, model) as loaded:
                if not found.prompts:
                    found.prompts = prompts_of(loaded.tokenizer, count)
                found.configs[config.name] = config
                found.logits[config.name] = last_logits(loaded, config, found.prompts, cancelled)
                again = last_logits(loaded, config, found.prompts[:3], cancelled)
                if (bits(again) != bits(found.logits[config.name][:3])).any():
                    found.unsteady.append(config.name)
        except (Cancelled, SettingsError) as error:
            if isinstance(error, Cancelled):
                raise
            found.skipped[config.name] = str(error)
    if not found.logits:
        raise WorkbenchError("none of the configurations runs here: " + "; ".join(
            f"{n}: {w}" for n, w in found.skipped.items()))
    return found


def bits(logits: np.ndarray) -> np.ndarray:
    """The float32 values as uint32, so that comparing means every bit (and NaN equals itself)."""
    import numpy as np

    return np.ascontiguousarray(logits, dtype=np.float32).view(np.uint32)


@contextlib.contextmanager
def opened(config: Config, model: str) -> Iterator[Any]:
    """The loaded model of a configuration, with its threads and kernel library for the time being."""
    import torch

    from workbench.runtime.model import load

    threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    settings = Settings().with_({"model.source": model, **config.changes})
    loaded = load(settings, lambda event: None)
    try:
        if config.threads:
            torch.set_num_threads(config.threads)
        if not config.native:
            loaded.forward.executor = None
        with _onednn(config.onednn and bool(onednn)):
            yield loaded
    finally:
        torch.set_num_threads(threads)
        loaded.close()


@contextlib.contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    """torch warns of TF32 on graphics cards that are not there when this flag is touched."""
    import warnings

    import torch

    before = torch.backends.mkldnn.enabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.mkldnn.set_flags(enabled)
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.backends.mkldnn.set_flags(before)


def last_logits(loaded: Any, config: Config, prompts: Sequence[list[int]],
                cancelled: Callable[[], bool] = lambda: False) -> np.ndarray:
    """float32 [prompts, vocabulary]: each prompt's last position, first row, from an empty cache."""
    import numpy as np
    import torch

    rows = []
    with torch.inference_mode():
        for ids in prompts:
            if cancelled():
                raise Cancelled("cancelled; nothing was saved")
            rows.append(_forward(loaded, config, ids)[0].float().cpu().numpy())
    return np.stack(rows)


def _forward(loaded: Any, config: Config, ids: list[int]) -> Any:
    """Logits [rows, vocabulary] of the last position."""
    import torch

    n, rows = len(ids), config.rows
    cache = loaded.cache(loaded.settings, rows, n)
    masks = loaded.forward.masks([0] * rows, cache.capacity)
    tokens = torch.tensor([ids] * rows, device=loaded.device)
    step = config.chunk or n
    for base in range(0, n, step):
        end = min(base + step, n)
        places = torch.arange(base, end, device=loaded.device)[None].expand(rows, -1)
        logits = loaded.forward(tokens[:, base:end], places, masks.rows(base, end - base), cache, 1)
    return logits[:, -1].clone()  # the executor writes its next ones into the same place
