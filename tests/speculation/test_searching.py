"""The search finds a planted winner, drops what cannot work, and ends early with what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from workbench.errors import Cancelled, SettingsError
from workbench.machine import this_machine
from workbench.settings import Settings
from workbench.shape import from_file
from workbench.speculation import searching
from workbench.speculation.measuring import Decoded
from workbench.speculation.searching import Search, candidates

BASE = Settings().with_({"sampling.temperature": 0.0})


def decoded(tok_per_s: float, new: int, per_forward: float = 1.0) -> Decoded:
    return Decoded(ids=[[0] * new], tok_per_s=tok_per_s, seconds=new / tok_per_s, new=new,
                   forwards=round(new / per_forward), verifications=0, drafted=0, accepted=0, draft_s=0.0,
                   verify_s=0.0, drafter_bytes=0, kv_bytes=0)


class Machine:
    """Known speeds; every other turn the whole machine is three times slower, as a busy one is."""

    def __init__(self, speeds: dict[str, float]) -> None:
        self.speeds, self.calls, self.seen = speeds, 0, list[tuple[str, int]]()

    def __call__(self, settings: Settings, prompts: Sequence[str]) -> Decoded:
        self.calls += 1
        name = str(settings.decoding).replace("(fallback=False)", "").replace(", fallback=False", "")
        new = settings.limits.max_new_tokens
        self.seen.append((name, new))
        slow = 3.0 if prompts[0] == "busy" else 1.0
        if name not in self.speeds:
            raise SettingsError(f"{name} has no speed")
        return decoded(self.speeds[name] / slow, new)


SPEEDS = {"plain": 10.0, "prompt_lookup": 14.0, "prompt_lookup(span=4)": 12.0, "prompt_lookup(span=12)": 19.0,
          "jacobi": 9.0, "jacobi(window=4)": 11.0, "draft_model": 8.0, "token_recycling": 13.0}


def test_it_finds_the_fastest_whatever_the_machine_does_in_between() -> None:
    machine = Machine(SPEEDS)
    found = Search(machine, BASE, [m for m in SPEEDS if m != "plain"], ["calm", "busy"]).run()
    assert found.finished
    assert found.changes == {"decoding": "prompt_lookup(span=12)"}
    assert found.best is not None
    assert found.best.summary.ratio == pytest.approx(1.9)
    ratios = [p.summary.ratio for p in found.places if p.rounds == found.places[0].rounds]
    assert ratios == sorted(ratios, reverse=True)
    assert len(found.places) == 7
    assert found.best.rounds > found.places[-1].rounds  # the slow ones were not tried to the end
    longest = max(new for _, new in machine.seen)
    assert {name for name, new in machine.seen if new == longest} - {"plain"} <= {
        "prompt_lookup(span=12)", "prompt_lookup", "token_recycling"}


def test_where_nothing_pays_plain_decoding_is_the_answer() -> None:
    found = Search(Machine({"plain": 10.0, "jacobi": 9.0, "prompt_lookup": 10.1}), BASE,
                   ["jacobi", "prompt_lookup"], ["calm"]).run()
    assert found.best is None
    assert found.changes == {"decoding": "plain"}
    assert "nothing beats" in found.describe()


def test_what_cannot_work_is_named_and_left_out() -> None:
    found = Search(Machine({"plain": 10.0, "jacobi": 12.0}), BASE, ["jacobi", "token_recycling"],
                   ["calm"]).run()
    assert found.skipped == {"token_recycling": "token_recycling has no speed"}
    assert found.changes == {"decoding": "jacobi"}


def test_a_cancel_keeps_what_is_known() -> None:
    machine = Machine(SPEEDS)

    def cancel_late(settings: Settings, prompts: Sequence[str]) -> Decoded:
        if machine.calls >= 40:
            raise Cancelled("stopped")
        return machine(settings, prompts)

    found = Search(cancel_late, BASE, [m for m in SPEEDS if m != "plain"], ["calm", "busy"]).run()
    assert not found.finished
    assert found.changes == {"decoding": "prompt_lookup(span=12)"}
    machine.calls = 100
    with pytest.raises(Cancelled):
        Search(cancel_late, BASE, ["jacobi"], ["calm"]).run()


def test_progress_reaches_its_total() -> None:
    told: list[tuple[int, int]] = []
    Search(Machine(SPEEDS), BASE, [m for m in SPEEDS if m != "plain"], ["a", "b", "c"],
           told=lambda done, total, what: told.append((done, total))).run()
    done, total = told[-1]
    assert done + 1 == total


def test_candidates_are_lossless_with_their_lengths() -> None:
    from workbench import zoo

    found, skipped = candidates(BASE, from_file(zoo.path("wb-14m")), this_machine())
    assert {"draft_model(gamma=4)", "prompt_lookup(span=4)", "token_recycling(nodes=14)"} <= set(found)
    assert not any(name.startswith(("plain", "diffusion_", "lud", "specee")) for name in found)
    assert all(BASE.with_({"decoding": m}).decoding.lossless for m in found)
    assert all(why for why in skipped.values())


def test_no_prompts_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match="no prompts"):
        Search(Machine(SPEEDS), BASE, ["jacobi"], [])


def test_a_search_with_the_real_model_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods, two prompts, the bundled model; the ranking is there for the panel."""
    from workbench import speculation
    from workbench.analysis import speculation_found

    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(searching, "_NEW", 8)
    settings = Settings().with_({"sampling.temperature": 0.0})
    found = speculation.search("bundled", ["def f(x):\n", "Compute step by step. Start with 5.\n"],
                               methods=["prompt_lookup", "token_recycling(nodes=6)"], settings=settings)
    assert {p.decoding for p in found.places} == {"prompt_lookup", "token_recycling(nodes=6)"}
    assert all(p.summary.same == p.summary.runs for p in found.places)
    kept = speculation_found.recall(settings)
    assert kept is not None
    assert kept["best"] == found.changes
    assert speculation_found.recall(settings.with_({"weights": "int4"})) is None
