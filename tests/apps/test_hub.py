"""Several users, one engine: isolated, in turns, and none takes another with him."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.apps.conftest import MakeHub
from tests.apps.scripted import ScriptedEngine
from workbench.apps.hub import Lifetimes
from workbench.errors import SettingsError, StoreError, WorkbenchError


def until(what: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_two_users_share_nothing_but_the_engine(make_hub: MakeHub) -> None:
    hub = make_hub()
    ada, bob = hub.enter("ada"), hub.enter("bob")
    ada.set({"limits.max_new_tokens": 32})
    run = ada.run("from ada")
    assert run.wait(10)
    until(lambda: ada.session.pinned is not None)
    assert bob.session.settings.limits.max_new_tokens == 128
    assert bob.session.runs == [] == bob.history()
    assert bob.session.pinned is None
    assert bob.find(run.id) is None
    assert not [e for e in bob.session.since(0)[0] if e.run == run.id]
    assert ada.session.store.root != bob.session.store.root


def test_one_users_tabs_share_everything(make_hub: MakeHub) -> None:
    hub = make_hub()
    assert hub.enter("ada") is hub.enter("ada")
    assert hub.users == ["ada"]


def test_runs_never_overlap_and_users_take_turns(make_hub: MakeHub) -> None:
    hub = make_hub(ScriptedEngine(tokens=10, gap_s=0.01))
    ada, bob = hub.enter("ada"), hub.enter("bob")
    mine = [ada.run(f"a{i}") for i in range(3)]
    his = bob.run("b")
    until(lambda: ada.session.queue_position(mine[0]) == 0)
    assert bob.session.queue_position(his) == 1
    runs = [*mine, his]
    for run in runs:
        assert run.wait(20)
    spans = sorted((r.created_unix_s, r.created_unix_s + max(e.t_s for e in r.events), r.id)
                   for r in runs)
    for (_, end, _), (start, _, _) in itertools.pairwise(spans):
        assert start >= end - 0.005
    assert [i for _, _, i in spans].index(his.id) == 1


def test_cancelling_a_queued_run_leaves_the_running_one(make_hub: MakeHub) -> None:
    hub = make_hub(ScriptedEngine(tokens=60, gap_s=0.01))
    ada, bob = hub.enter("ada"), hub.enter("bob")
    running = ada.run("a")
    queued = bob.run("b")
    until(lambda: ada.session.queue_position(running) == 0)
    bob.session.cancel(queued)
    until(lambda: queued.status == "cancelled", 1)
    assert running.wait(20)
    assert running.status == "done"


def test_leaving_cancels_only_ones_own(make_hub: MakeHub) -> None:
    hub = make_hub(ScriptedEngine(tokens=400, gap_s=0.01), lifetimes=Lifetimes(left=0.05))
    ada, bob = hub.enter("ada"), hub.enter("bob")
    first, second = ada.run("a"), bob.run("b")
    until(lambda: ada.session.queue_position(first) == 0)
    hub.leave(bob)
    until(lambda: second.status == "cancelled")
    assert first.status == "running"
    hub.leave(ada)
    assert hub.enter("ada") is ada  # a reload
    hub.tidy(time.monotonic() + 1)
    assert first.status == "running"
    hub.leave(ada)
    until(lambda: first.status == "cancelled")


def test_a_dead_engine_is_one_sentence_and_the_next_run_works(make_hub: MakeHub) -> None:
    engine = ScriptedEngine(tokens=1000, gap_s=0.01)
    hub = make_hub(engine)
    ada, bob = hub.enter("ada"), hub.enter("bob")
    run = ada.run("a")
    until(lambda: len(run.events) > 5)
    engine.die()
    assert run.wait(10)
    assert run.status == "failed"
    assert "\n" not in run.error
    assert run.error
    again = bob.run("b")
    assert again.wait(10)
    assert again.status == "done"


def test_settings_runs_and_pin_outlive_the_server(make_hub: MakeHub) -> None:
    hub = make_hub()
    ada = hub.enter("ada")
    ada.set({"limits.max_new_tokens": 77})
    run = ada.run("a")
    assert run.wait(10)
    until(lambda: ada.session.pinned is not None)
    ada.pin(run)
    hub.close()
    back = make_hub().enter("ada")
    assert back.session.settings.limits.max_new_tokens == 77
    assert [r.id for r in back.history()] == [run.id]
    assert back.session.pinned is not None
    assert back.session.pinned.id == run.id
    assert back.find(run.id).text == run.text  # type: ignore[union-attr]


def test_limits(make_hub: MakeHub) -> None:
    hub = make_hub(ScriptedEngine(tokens=500, gap_s=0.01), max_waiting=2, max_users=1,
                   max_upload_bytes=10, max_new_tokens=50)
    ada = hub.enter("ada")
    with pytest.raises(SettingsError, match="at most 50"):
        ada.set({"limits.max_new_tokens": 51})
    ada.set({"limits.max_new_tokens": 50})
    ada.run("1")
    ada.run("2")
    with pytest.raises(SettingsError, match="waiting already"):
        ada.run("3")
    with pytest.raises(WorkbenchError, match="1 users already"):
        hub.enter("bob")
    with pytest.raises(StoreError, match="at most"):
        ada.import_settings("{" + " " * 20 + "}")
    ada.session.cancel()
    until(lambda: not ada.unfinished())
    with pytest.raises(SettingsError, match="empty"):
        ada.run("")


def test_pasted_settings_pass_the_same_door(make_hub: MakeHub) -> None:
    ada = make_hub().enter("ada")
    good = ada.session.settings.with_({"limits.max_new_tokens": 9})
    ada.import_settings(good.to_yaml())
    assert ada.session.settings == good
    for bad in (good.with_({"model.trust_remote_code": True}).to_json(),
                good.with_({"model.source": "/etc"}).to_json(), "[1]", "{", "weights: 5: 6"):
        with pytest.raises(SettingsError):
            ada.import_settings(bad)
    assert ada.session.settings == good


def test_the_idle_engine_gives_its_memory_back_once(make_hub: MakeHub) -> None:
    engine = ScriptedEngine(tokens=3)
    hub = make_hub(engine, lifetimes=Lifetimes(unload=100))
    ada = hub.enter("ada")
    assert ada.run("a").wait(10)
    for _ in range(3):
        hub.tidy(time.monotonic() + 101)
    until(lambda: any(type(m).__name__ == "Unload" for m in engine.asked))
    assert sum(type(m).__name__ == "Unload" for m in engine.asked) == 1


def test_a_bundle_goes_out_and_comes_back_to_another_user(make_hub: MakeHub) -> None:
    from workbench.apps.files import add_bundle, zipped

    hub = make_hub()
    ada, bob = hub.enter("ada"), hub.enter("bob")
    run = ada.run("a")
    assert run.wait(10)
    until(lambda: not ada.unfinished())
    copy = add_bundle(zipped(run), bob)
    assert copy.text == run.text
    assert [r.id for r in bob.history()] == [copy.id]
    played = bob.session.replay(copy, speed=100)
    assert played.wait(10)
    assert played.text == run.text


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_a_bad_upload_is_one_sentence(make_hub: MakeHub, data: bytes) -> None:
    from workbench.apps.files import add_bundle

    with pytest.raises(StoreError, match="not a zip"):
        add_bundle(data, make_hub().enter("ada"))


def test_a_zip_that_climbs_or_explodes_is_refused(make_hub: MakeHub) -> None:
    import io
    import zipfile

    from workbench.apps.files import add_bundle

    ada = make_hub().enter("ada")
    climbing, bomb = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(climbing, "w") as archive:
        archive.writestr("../../run.json", "{}")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, \
            archive.open("x/run.json", "w") as file:
        for _ in range(300):
            file.write(b"0" * (1 << 20))
    with pytest.raises(StoreError, match="refused"):
        add_bundle(climbing.getvalue(), ada)
    with pytest.raises(StoreError, match="256 MiB"):
        add_bundle(bomb.getvalue(), ada)
    assert not [p for p in ada.session.store.root.parent.rglob("*") if p.name == "run.json"]


def test_the_machines_own_runs_are_listed_but_not_kept(make_hub: MakeHub, tmp_path: Path) -> None:
    from workbench.store import Store

    hub = make_hub()
    writer = Store(tmp_path / "own").record(hub.settings, "p", label="mine")
    writer.finish(status="done")
    hub.shared = Store(tmp_path / "own")
    assert [r.label for r in hub.enter("ada").history()] == ["mine"]
