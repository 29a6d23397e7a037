"""``workbench bench --limit``: where a step's time goes, and how far that is from this machine's limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.cli.common import console, text_table
from workbench.errors import WorkbenchError
from workbench.units import format_bytes

if TYPE_CHECKING:
    from workbench.analysis.limit import Limit
    from workbench.session import Session
    from workbench.settings import Settings
    from workbench.store import Run

_WARM = {"limits.max_new_tokens": 8}


def measure(session: Session, candidates: list[tuple[str, Settings]], prompt: str
            ) -> list[tuple[str, Run, Limit]]:
    """One run per candidate with kernel windows, after a short one; the ceilings are measured in the
    same session, because a neighbour may hold them down today. Raises WorkbenchError where a run is too
    short to have steps."""
    from workbench.analysis.roofline import ceilings_of

    found = []
    with console(stderr=True).status("measuring this machine's ceilings") as status:
        session.measure_machine(wait=True)
        for name, settings in candidates:
            status.update(name)
            chosen = settings.with_({"telemetry.preset": "kernels"})
            warm = session.run(prompt, wait=True, settings=chosen.with_(_WARM))
            session.store.delete(warm.id)
            run = session.run(prompt, label=f"limit {name}", wait=True, settings=chosen)
            known = {"ceilings": session.machine.ceilings, "measured_on": session.machine.measured_on}
            on_gpu = "cuda" in str(run.effective.get("compute.device", {}).get("effective", ""))
            ceilings = ceilings_of(known, "gpu" if on_gpu else "cpu")
            found.append((name, run, _limit(session, run, chosen, ceilings)))
            session.store.delete(run.id)
    return found


def _limit(session: Session, run: Run, settings: Settings, ceilings: Any) -> Limit:
    from workbench.analysis import limit as analysis

    weights, kv = None, None
    if session.shape is not None:
        weights = analysis.weights_per_step(settings, session.shape, list(run.events))
        kv = settings.kv.token_bytes(session.shape, settings.weights.compute_dtype)
    made = analysis.limit(run.events, ceilings, weights, kv)
    if made is None:
        raise WorkbenchError("the run made fewer than two decoding steps; raise --new-tokens")
    return made


def as_json(name: str, found: Limit) -> dict[str, Any]:
    return {"name": name, "step_s": found.step_s, "steps": found.steps, "host_s": found.host_s,
            "weights_bytes": found.weights_bytes, "kv_bytes": found.kv_bytes,
            "read_bytes_per_s": found.ceilings.bytes_per_s, "floor_s": found.floor_s,
            "achieved_bytes_per_s": found.achieved_bytes_per_s, "reached": found.reached,
            "windows": found.windows, "why_no_floor": found.why_no_floor,
            "rows": [{"name": r.name, "seconds": r.seconds, "bytes": r.moved, "flops": r.flops,
                      "floor_s": r.floor_s, "reached": r.reached} for r in found.rows]}


def show(name: str, found: Limit) -> None:
    """A sentence and a table."""
    out = console()
    out.print(f"{name}: {_sentence(found)}")
    rows = [[r.name, _ms(r.seconds), f"{r.seconds / found.step_s:.0%}",
             "-" if r.moved is None else format_bytes(r.moved), _ms(r.floor_s),
             "-" if r.reached is None else f"{r.reached:.0%}"] for r in found.rows]
    rows.append(["host, between steps", _ms(found.host_s), f"{found.host_s / found.step_s:.0%}",
                 "-", "-", "-"])
    rows.append(["step", _ms(found.step_s), "100%", "-" if found.weights_bytes is None else
                 format_bytes(found.weights_bytes + (found.kv_bytes or 0)), _ms(found.floor_s),
                 "-" if found.reached is None else f"{found.reached:.0%}"])
    out.print(text_table("", ["part of a step", "ms", "share", "bytes", "floor ms", "reached"], rows))
    if not found.windows:
        out.print("No kernel windows: this backend's kernels cannot be seen, so the forward is one row.")


def _sentence(found: Limit) -> str:
    rate = f"a step takes {1e3 * found.step_s:.3g} ms over {found.steps} steps"
    if found.floor_s is None:
        return f"{rate}; no floor: {found.why_no_floor or 'the bytes of a step are not known'}"
    assert found.achieved_bytes_per_s is not None
    return (f"{rate}; its floor is {1e3 * found.floor_s:.3g} ms "
            f"({format_bytes(found.weights_bytes or 0)} of weights and "
            f"{format_bytes(found.kv_bytes or 0)} of KV at the measured "
            f"{(found.ceilings.bytes_per_s or 0) / 1e9:.3g} GB/s): "
            f"{found.achieved_bytes_per_s / 1e9:.3g} GB/s, {found.reached:.0%} of the limit")


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3f}"
