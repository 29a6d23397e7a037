"""What the view shows, as plain JSON-ready values: session and runs in, dictionaries out.

Pure: no widget, no thread. The live widget and the static HTML are drawn from the same values, so
they cannot disagree. Text stays text here; whoever draws it escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.settings import ControlView

if TYPE_CHECKING:
    from workbench.analysis.live import Live
    from workbench.session import Session
    from workbench.store import Run

Json = dict[str, Any]

#: Group -> its title, in the order of the page; the rest starts closed.
TITLES = {"weights": "Weights", "decoding": "Decoding", "kv": "KV cache", "tiers": "Memory tiers",
          "limits": "Length", "sampling": "Sampling", "quality": "Quality",
          "telemetry": "Telemetry", "compute": "Compute", "model": "Model", "seed": "Seed"}
_OPEN = ("weights", "decoding", "kv", "tiers", "limits")
#: What opening another model may do is decided in code, never by a click.
HIDDEN = ("model.allow_pickle", "model.trust_remote_code")
#: The tiles under the text, in order.
TILES = ("tok_per_s", "ttft_s", "tpot_s", "itl_p99_s", "mean_accepted_length", "peak_gpu_bytes",
         "peak_ram_bytes", "j_per_token", "perplexity", "kl_mean", "top1")
_ALWAYS_TILES = ("tok_per_s", "ttft_s", "tpot_s", "peak_ram_bytes", "j_per_token")
_MAX_COMPARED = 4
_MAX_DIFF_CHARS = 20_000
WORKING = ("queued", "running")


def controls(views: Sequence[ControlView]) -> list[Json]:
    """Groups of knobs. A choice that cannot work here stays, disabled, with its reason."""
    groups: dict[str, Json] = {
        name: {"name": name, "title": title, "open": name in _OPEN, "controls": []}
        for name, title in TITLES.items()}
    for view in views:
        if view.path in HIDDEN:
            continue
        group = groups.setdefault(view.group, {
            "name": view.group, "title": view.group.capitalize(), "open": False, "controls": []})
        group["controls"].append(_control(view))
    for group in groups.values():
        group["changed"] = any(c["value"] != c["default"] for c in group["controls"])
    return [g for g in groups.values() if g["controls"]]


def _control(view: ControlView) -> Json:
    low, high = view.soft or (view.low, view.high)
    return {"path": view.path, "label": view.label, "kind": view.kind, "value": view.value,
            "default": view.default, "help": view.help, "choices": list(view.choices),
            "low": low, "high": high, "least": view.low, "most": view.high,
            "step": view.step or (1 if view.kind == "integer" else None), "unit": view.unit,
            "unavailable": dict(view.unavailable)}


def prompts(model: str) -> list[Json]:
    """The bundled prompts that suit this model, for the menu."""
    from workbench import zoo

    return [{"id": p.id, "kind": p.kind, "text": p.text} for p in zoo.prompts(model=model)]


def about(session: Session) -> Json:
    """Model and machine, in a line each."""
    from workbench.units import format_bytes

    shape, machine = session.shape, session.machine
    name = session.model if session.model != "bundled" else _bundled_name()
    size = f"{_count(shape.parameters)} parameters, {shape.layers} layers" if shape else ""
    memory = format_bytes(machine.memory_bytes) + " RAM"
    gpus = ", ".join(g.name for g in machine.gpus) if machine.gpus else "no GPU"
    return {"model": name, "size": size, "machine": " · ".join(p for p in (
        machine.cpu, f"{machine.cores} cores", memory, gpus) if p)}


def _bundled_name() -> str:
    from workbench import zoo

    return f"{zoo.DEFAULT} (bundled)"


def _count(n: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(int(n))


def busy(session: Session) -> bool:
    """Whether anything of this session runs, waits or plays."""
    return session.state == "replaying" or any(
        r.status in WORKING for r in session.runs[-16:])


def status(session: Session, run: Run | None, live: Live, progress: Json | None) -> Json:
    """One word, one sentence, progress: what is going on."""
    word, sentence, done = _going_on(session, run, live, progress)
    level = "idle"
    if busy(session):
        level = "busy"
    elif session.message:
        sentence, level = session.message, "error"
        if session.message.startswith("cancelled"):
            word, level = "cancelled", "notice"
        elif run is not None and run.status == "failed":
            word = "failed"
        else:
            word = "attention"
    return {"state": session.state, "word": word, "sentence": sentence, "level": level,
            "busy": busy(session), "done": done, "run": run.id if run else ""}


def _going_on(session: Session, run: Run | None, live: Live, progress: Json | None
              ) -> tuple[str, str, float | None]:
    """(word, sentence, share done or None)."""
    if run is None:
        return "ready", "Choose settings, write a prompt, press Run.", None
    position = session.queue_position(run)
    if run.status == "queued":
        if position is not None and position > 1:
            return "queued", f"Number {position} in the queue; runs never disturb each other.", None
        return "starting", (progress or {}).get("text") or "Starting the engine.", \
            (progress or {}).get("share")
    if run.status == "running":
        return _running(session, run, live, progress)
    words = {"done": f"{live.tokens} tokens.", "cancelled": f"Cancelled after {live.tokens} tokens.",
             "failed": run.error, "interrupted": "This run was interrupted; what came is kept."}
    return run.status, words.get(run.status, ""), None


def _running(session: Session, run: Run, live: Live, progress: Json | None
             ) -> tuple[str, str, float | None]:
    if session.state == "replaying":
        return "replay", f"Playing a recorded run: {live.tokens} tokens.", None
    if not live.tokens:
        return ("loading", (progress or {}).get("text") or "Loading the model.",
                (progress or {}).get("share"))
    if session.state == "evaluating" or live.phase == "evaluate":
        return "measuring", "Measuring quality against the untouched model.", \
            (progress or {}).get("share")
    limit = run.requested.limits.max_new_tokens * run.requested.limits.batch
    return "running", f"{live.tokens} of at most {limit} tokens.", min(1.0, live.tokens / limit)


def tiles(run: Run | None, baseline: Run | None) -> list[Json]:
    """Key figures beside the baseline's."""
    from workbench.analysis.comparing import verdict
    from workbench.analysis.metrics import SPECS, format_value, remarks

    metrics = run.metrics if run is not None else {}
    base = baseline.metrics if baseline is not None and run is not None and (
        baseline.id != run.id) else {}
    found = []
    for name in TILES:
        m = metrics.get(name)
        if name not in _ALWAYS_TILES and (m is None or m.value is None):
            continue
        b = base.get(name)
        ratio = m.value / b.value if m and b and m.value is not None and b.value else None
        found.append({
            "name": name, "label": SPECS[name].label, "help": SPECS[name].help,
            "text": format_value(m), "remarks": remarks(m), "reason": m.reason if m is not None else "",
            "ratio": f"{ratio:.2f}×" if ratio else "", "verdict": verdict(name, ratio)})
    return found


def compared(session: Session, chosen: Sequence[str]) -> list[Run]:
    """The pinned baseline, then the chosen runs, then the latest finished ones."""
    done = [r for r in session.runs if r.status == "done"]
    picked = [r for r in done if r.id in chosen] if chosen else done
    base = session.pinned
    rest = [r for r in picked if base is None or r.id != base.id]
    room = _MAX_COMPARED - (1 if base is not None else 0)
    return ([base] if base is not None else []) + rest[-room:]


def comparison(runs: Sequence[Run], baseline: Run | None) -> Json:
    """``runs`` as columns (the baseline first), metrics as rows."""
    from workbench.analysis import table

    head = [{"id": r.id, "label": r.label, "baseline": baseline is not None and r.id == baseline.id}
            for r in runs]
    rows = table(runs, baseline) if runs else []
    for row in rows:
        for cell in row["cells"]:
            cell["ratio"] = f"{cell['ratio']:.2f}×" if cell["ratio"] else ""
    return {"runs": head, "rows": rows, "why": explanation(runs, baseline)}


def explanation(runs: Sequence[Run], baseline: Run | None) -> str:
    """Why the newest run's time per token is not the baseline's, and one thing to try."""
    if baseline is None or not runs or runs[-1].id == baseline.id:
        return ""
    from workbench import analysis

    found = analysis.waterfall(baseline.events, runs[-1].events)
    if found is None:
        return ""
    return " ".join(p for p in (analysis.why(found, baseline.label, runs[-1].label),
                                analysis.advice(found)) if p)


def effective(run: Run | None) -> list[Json]:
    """Requested beside effective for every setting the runtime answered for."""
    if run is None:
        return []
    return [{"path": path, **row} for path, row in run.effective.items()]


def difference(run: Run | None, baseline: Run | None) -> Json:
    """The run's text against the baseline's."""
    from workbench.analysis import textdiff

    if run is None or baseline is None or run.id == baseline.id:
        return {"sentence": "Run again with other settings: the text is compared with the pinned "
                            "baseline's here.", "parts": []}
    if run.prompts != baseline.prompts:
        return {"sentence": "The two runs had different prompts, so their texts are not compared.",
                "parts": []}
    found = textdiff(baseline, run)
    parts = [{"op": p.op, "a": p.a[:_MAX_DIFF_CHARS], "b": p.b[:_MAX_DIFF_CHARS]}
             for p in found.parts]
    return {"sentence": found.summary, "parts": parts, "a": baseline.label, "b": run.label,
            "same": found.same}


def history(session: Session, recorded: Sequence[Run], shown: Run | None) -> list[Json]:
    """This session's runs and the recorded ones, newest first."""
    from workbench.analysis.metrics import format_metric

    mine = list(reversed(session.runs))
    known = {r.id for r in mine}
    pinned = session.pinned
    rows = []
    for run in [*mine, *(r for r in recorded if r.id not in known)][:40]:
        speed = run.metrics.get("tok_per_s") if run.status not in WORKING else None
        rows.append({
            "id": run.id, "label": run.label, "status": run.status, "error": run.error,
            "when": run.created.strftime("%d %b %H:%M:%S"), "prompt": run.prompt[:120],
            "speed": format_metric(speed) if speed else "", "mine": run.id in known,
            "pinned": pinned is not None and pinned.id == run.id,
            "shown": shown is not None and shown.id == run.id})
    return rows
