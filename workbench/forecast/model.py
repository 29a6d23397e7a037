"""The roofline step model.

A decode step moves every weight byte and the cached tokens once and computes ``rows`` rows; it takes
the larger of bytes over bandwidth and FLOPs over rate, plus the host's dispatch per operator, plus
the transfers that computing cannot hide. Speculation divides by the tokens that a step emits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.forecast import calibration as learned
from workbench.forecast import memory
from workbench.forecast.estimate import Estimate, TierUse
from workbench.forecast.hardware import Rates, rates
from workbench.forecast.products import joules_per_token, prefill_seconds
from workbench.machine import Machine
from workbench.shape import ModelShape
from workbench.techniques.kvcache import capacity
from workbench.units import format_bytes

if TYPE_CHECKING:
    from workbench.settings import Settings

#: Operators that the host dispatches per decoder layer (norms, projections, rotary embedding,
#: attention, cache, activation, residuals), counted with torch.profiler on the bundled models:
#: outermost ones of a decoding forward, embedding and head shared out. Lean: the runtime's own
#: Llama forward, which drafts run in; half the time of transformers' at the same shape.
OPERATORS_PER_LAYER, LEAN_OPERATORS_PER_LAYER = 64, 32
#: Assumed prompt and acceptance before anything was measured; both are shown with the forecast.
PROMPT_TOKENS, ACCEPTANCE = 64, 0.6
#: Doubt as a factor: from the catalogue, from measured ceilings.
_CATALOGUE_DOUBT, _CEILINGS_DOUBT = 2.5, 1.6


@dataclass(frozen=True)
class Times:
    """Seconds of one configuration before correction."""

    tpot_s: float
    ttft_s: float
    emitted: float
    bound: str


@dataclass(frozen=True)
class Forecast:
    """Memory per tier and times, each with its doubt. ``notes``: assumptions, one sentence each."""

    tiers: tuple[TierUse, ...]
    tpot_s: Estimate
    ttft_s: Estimate
    tok_per_s: Estimate
    j_per_token: Estimate
    bound: str
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return all(t.fits for t in self.tiers)

    @property
    def misfit(self) -> str:
        """One sentence when a tier is too small, else empty."""
        for t in self.tiers:
            if not t.fits:
                return (f"{t.tier.upper()} needs {format_bytes(t.total_bytes)} and has "
                        f"{format_bytes(t.limit_bytes)}; use fewer bits, a smaller batch or context, "
                        "or tiers=stream")
        return ""

    def error_of(self, metrics: dict[str, Any]) -> dict[str, float]:
        """metric -> relative error of this forecast against a run's metrics."""
        errors = {}
        for name in ("tpot_s", "ttft_s", "tok_per_s", "j_per_token"):
            found = metrics.get(name)
            error = getattr(self, name).error_of(found.value if found is not None else None)
            if error is not None:
                errors[name] = error
        return errors

    def to_dict(self) -> dict[str, Any]:
        from dataclasses import asdict

        return {"tiers": [t.to_dict() for t in self.tiers], "fits": self.fits,
                "misfit": self.misfit, "bound": self.bound, "notes": list(self.notes),
                **{n: asdict(getattr(self, n)) for n in
                   ("tpot_s", "ttft_s", "tok_per_s", "j_per_token")}}


def forecast(settings: Settings, shape: ModelShape, machine: Machine, *,
             draft_shape: ModelShape | None = None, prompt_tokens: int = PROMPT_TOKENS) -> Forecast:
    """What this configuration will need and how fast it will be. Pure; no torch."""
    device = memory.device_of(settings, machine)
    known = learned.load(machine)
    key = learned.key_of(settings, shape, device)
    tokens = capacity(prompt_tokens, settings.limits.max_new_tokens, settings.decoding.rows())
    accepted = known.factor(key, "accepted_length")
    times = raw_times(settings, shape, machine, draft_shape, prompt_tokens,
                      accepted[0] if accepted[2] else None)
    here = rates(machine, device)
    factor, spread, runs = known.factor(key, "tpot_s")
    doubt = spread or (_CEILINGS_DOUBT if here.measured else _CATALOGUE_DOUBT)
    basis = here.basis + (f", calibrated on {runs} runs like this" if runs else
                          ", calibrated on other runs" if spread else "")
    first, first_spread, first_runs = known.factor(key, "ttft_s")
    tpot = times.tpot_s * factor
    ttft = times.ttft_s * (first if first_runs else factor)
    batch = settings.limits.batch
    return Forecast(
        tiers=tuple(memory.tiers(settings, shape, machine, draft_shape, tokens)),
        tpot_s=Estimate.around(tpot, doubt, "s", basis),
        ttft_s=Estimate.around(ttft, first_spread if first_runs else max(doubt, 1.5), "s", basis),
        tok_per_s=Estimate.around(batch / tpot, doubt, "tok/s", basis),
        j_per_token=joules_per_token(
            settings, shape, machine, device, _step_bytes(settings, shape, tokens), tpot / batch,
            times.emitted, doubt) or _energy(here, tpot / batch, doubt),
        bound=times.bound, notes=tuple(_notes(settings, prompt_tokens, bool(accepted[2]), times)))


def raw_times(settings: Settings, shape: ModelShape, machine: Machine,
              draft: ModelShape | None, prompt_tokens: int = PROMPT_TOKENS,
              accepted: float | None = None) -> Times:
    """Uncorrected seconds. ``accepted``: tokens per target forward, when it is known."""
    device = memory.device_of(settings, machine)
    here = rates(machine, device, settings.compute.threads)
    batch, rows = settings.limits.batch, settings.decoding.rows()
    context = prompt_tokens + settings.limits.max_new_tokens // 2
    matrices = shape.layers * memory.layer_bytes(settings, shape)
    head = memory.head_bytes(settings, shape) - (0 if shape.tied else shape.embedding_parameters * 2)
    rest = head + memory.kv_bytes(settings, shape, context)
    streamed, rate = _streamed(settings, shape, machine, device, here)
    name = settings.weights.name()
    work, bound = _step(here, shape, matrices, rest, rows * batch, name)
    step = max(work, streamed / rate) if streamed else work
    emitted = accepted or expected_tokens(rows - 1, ACCEPTANCE)
    drafting = _draft_seconds(settings, draft, here)
    prefill, _ = _step(here, shape, matrices, rest, prompt_tokens * batch, name)
    products = prefill_seconds(settings, shape, machine, device, prompt_tokens * batch)
    if products is not None:
        prefill = products + here.dispatch_s * OPERATORS_PER_LAYER * shape.layers
    prefill = max(prefill, streamed / rate) if streamed else prefill
    if streamed and streamed / rate > work:
        bound = "transfer"
    return Times((step + drafting) / emitted, prefill, emitted, bound)


def expected_tokens(drafted: int, acceptance: float) -> float:
    """Tokens per verification of a chain: (1 - a^(g+1)) / (1 - a), Leviathan et al. 2023, eq. 1."""
    return (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


def _step(here: Rates, shape: ModelShape, matrices: int, rest: int, rows: int, weights: str,
          operators: int = OPERATORS_PER_LAYER) -> tuple[float, str]:
    """(seconds, what binds: memory, compute or dispatch). ``matrices``: packed bytes of the layers;
    ``rest``: bytes of head and KV cache in their own dtype."""
    plain = "fp32" if weights == "fp32" else "bf16"
    reading = (matrices / here.product_bytes_per_s(weights)
               + rest / here.product_bytes_per_s(plain))
    parameters = shape.layers * shape.layer_parameters + shape.embedding_parameters
    parts = {"memory": reading, "compute": 2 * parameters * rows / here.flops}
    dispatch = here.dispatch_s * operators * shape.layers
    longest = max(parts, key=lambda name: parts[name])
    return max(parts.values()) + dispatch, "dispatch" if dispatch > parts[longest] else longest


def _draft_seconds(settings: Settings, draft: ModelShape | None, here: Rates) -> float:
    if draft is None:
        return 0.0
    plain = "fp32" if settings.weights.name() == "fp32" else "bf16"
    item = 4 if plain == "fp32" else 2
    layers = item * draft.layers * draft.layer_parameters
    rest = item * draft.embedding_parameters
    lean = LEAN_OPERATORS_PER_LAYER if "Llama" in draft.architecture else OPERATORS_PER_LAYER
    one, _ = _step(here, draft, layers, rest, settings.limits.batch, plain, lean)
    return (settings.decoding.rows() - 1) * one


def _streamed(settings: Settings, shape: ModelShape, machine: Machine, device: str, here: Rates
              ) -> tuple[int, float]:
    """(bytes that travel per forward, bytes per second of their way)."""
    compute = "gpu" if device.startswith("cuda") else "ram"
    away = [t for t in settings.tiers.placement(shape.layers, machine, device) if t != compute]
    rate = here.disk_bytes_per_s if "disk" in away else here.link_bytes_per_s or 1.0
    return len(away) * memory.layer_bytes(settings, shape), rate


def _step_bytes(settings: Settings, shape: ModelShape, tokens: int) -> int:
    """Bytes that one decoding forward moves: packed layers, head, cached tokens."""
    return (shape.layers * memory.layer_bytes(settings, shape) + memory.head_bytes(settings, shape)
            + memory.kv_bytes(settings, shape, tokens))


def _energy(here: Rates, seconds: float, doubt: float) -> Estimate:
    if here.watts is None:
        return Estimate(None, unit="J", reason="no figure for this processor's power, and no sensor")
    low, high = 0.35 * here.watts * seconds / doubt, here.watts * seconds * doubt
    return Estimate(0.6 * here.watts * seconds, low, high, "J",
                    "0.35 to 1.0 of the board power in the datasheet, estimated")


def _notes(settings: Settings, prompt_tokens: int, known: bool, times: Times) -> list[str]:
    notes = [f"for a prompt of {prompt_tokens} tokens and {settings.limits.max_new_tokens} new ones"]
    if settings.decoding.rows() > 1:
        notes.append(f"{times.emitted:.2f} tokens per target forward, "
                     + ("as in this machine's runs" if known
                        else f"assuming that {ACCEPTANCE:.0%} of drafted tokens are accepted"))
    return notes
