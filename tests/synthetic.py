"""Events of a run that never happened, exact to the microsecond, for tests of what reads events."""

from __future__ import annotations

from workbench import events as ev

SPEED_S = 0.01


def plain(n: int = 10, step_s: float = SPEED_S, host_s: float = 0.001, text: str = "word ",
          sequence: int = 0) -> list[ev.Event]:
    """A prefill of 0.1 s and ``n`` tokens, one per forward of ``step_s`` and ``host_s`` of host work."""
    events: list[ev.Event] = [
        ev.RunStarted(prompt_tokens=20, started_unix_s=1.0),
        ev.Effective(path="weights", requested="int4", effective="int4 kernel"),
        ev.Effective(path="kv", requested="int8", effective="full", honoured=False, reason="why not"),
        ev.Phase(t_s=0.1, phase="prefill", start_s=0.0, end_s=0.1, rows=20),
        ev.Token(t_s=0.1, index=0, id=100, text=text, sequence=sequence),
        ev.Memory(t_s=0.1, tier="ram", total_bytes=1 << 30, weights_bytes=1 << 29, kv_bytes=1 << 20)]
    t = 0.1
    for i in range(1, n):
        events.append(ev.Phase(t_s=t + step_s, phase="decode", start_s=t, end_s=t + step_s, step=i,
                               rows=1, tokens=1))
        t += step_s + host_s
        events.append(ev.Token(t_s=t, index=i, id=100 + i, text=text, step=i, sequence=sequence))
    return [*events, ev.RunEnded(t_s=t, status="done", new_tokens=n)]


def speculative(steps: int = 4, gamma: int = 3, accepted: int = 2) -> list[ev.Event]:
    """``steps`` verifications, each 2 ms of drafting and 10 ms of verification, ``accepted`` + 1 tokens."""
    events: list[ev.Event] = [
        ev.RunStarted(prompt_tokens=20),
        ev.Phase(t_s=0.1, phase="prefill", start_s=0.0, end_s=0.1, rows=20),
        ev.Token(t_s=0.1, index=0, id=1, text="a")]
    t, index = 0.1, 1
    for step in range(1, steps + 1):
        events += [ev.Phase(phase="draft", start_s=t, end_s=t + 0.002, step=step),
                   ev.Phase(phase="verify", start_s=t + 0.002, end_s=t + 0.012, step=step)]
        t += 0.012
        for k in range(accepted + 1):
            events.append(ev.Token(t_s=t, index=index, id=index, text="b", step=step,
                                   source="draft" if k < accepted else "bonus"))
            index += 1
        events.append(ev.Draft(t_s=t, step=step, drafted=gamma, accepted=accepted,
                               emitted=accepted + 1, draft_s=0.002, verify_s=0.01))
    return [*events, ev.RunEnded(t_s=t, status="done", new_tokens=index)]


def kernels() -> list[ev.Event]:
    """One window with two phases and three kernels."""
    window = ev.KernelWindow(t_s=0.12, window=0, start_s=0.1, end_s=0.12, preset="light",
                             overhead_s=0.0005, steps=2)
    rows = [("decode", "mm", "matmul", 4, 0.008, 0.004),
            ("decode", "soft<b>max", "attention", 4, 0.001, None),
            ("prefill", "mm", "matmul", 2, 0.05, 0.04)]
    return [window, *(ev.Kernel(
        t_s=0.12, window=0, phase=p, layer=0, name=n, kind="op", cls=c, device="cpu", calls=k,
        total_s=s, mean_s=s / k, min_s=s / k, max_s=s / k, floor_s=f) for p, n, c, k, s, f in rows)]


def power(end_s: float = 0.2, quality: str = "measured") -> list[ev.Event]:
    """A 50 W sensor read every 10 ms, period 5 ms."""
    n = round(end_s / 0.01)
    return [ev.SensorStatus(device="cpu", source="rapl", available=True, period_s=0.005, quality=quality),
            *(ev.Power(t_s=0.01 * i, device="cpu", source="rapl", instant_w=50.0, quality=quality)
              for i in range(n + 1))]
