"""A local engine over the real wire, with a scripted executor: queue, cancel, faults, ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from workbench import errors
from workbench.engine import process
from workbench.engine.client import Engine, Load, Unload
from workbench.events import EngineState, Token


def test_the_client_never_imports_torch() -> None:
    code = ("import sys, workbench.engine.client as c; "
            "bad = {'torch', 'transformers', 'workbench.runtime', 'zmq'} & set(sys.modules); "
            "assert not bad, bad")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_start_returns_at_once_and_commands_may_be_queued(
        start_scripted: Callable[[], Engine], do: Any) -> None:
    before = time.monotonic()
    engine = start_scripted()
    ticket = do(engine, "tokens 3")
    assert time.monotonic() - before < 0.5
    assert engine.state == "starting"
    assert ticket.wait(20) == {"run": "r", "tokens": 3}
    assert engine.pid != os.getpid()


def test_all_events_arrive_in_order_before_the_result(engine: Engine, do: Any) -> None:
    ticket = do(engine, "tokens 400")
    ticket.wait(20)
    tokens = [e for e in engine.poll() if isinstance(e, Token)]
    assert [t.index for t in tokens] == list(range(400))
    assert engine.poll() == []


def test_tokens_arrive_in_batches_and_soon(engine: Engine, do: Any) -> None:
    """At most about thirty messages a second, each token within 50 ms (and the machine's jitter)."""
    batches, delays = 0, []
    ticket = do(engine, "tokens 300")
    while not ticket.done:
        now, events = time.time(), engine.poll()
        batches += bool(events)
        delays += [now - e.t_s for e in events if isinstance(e, Token)]
        time.sleep(0.001)
    assert batches >= 5
    assert len(delays) / batches > 5  # a token every 2 ms, a batch every 33
    assert sorted(delays)[len(delays) // 2] < 0.05
    assert delays[0] < 0.15  # the first does not wait for an idle loop to wake up


def test_commands_run_in_the_order_of_submission(engine: Engine, do: Any) -> None:
    tickets = [do(engine, "tokens 3", run=str(i)) for i in range(20)]
    assert [t.wait(20)["run"] for t in tickets] == [str(i) for i in range(20)]


def test_many_threads_may_submit(engine: Engine, do: Any) -> None:
    results: list[str] = []

    def work(name: str) -> None:
        for _ in range(10):
            results.append(do(engine, "tokens 1", run=name).wait(20)["run"])

    threads = [threading.Thread(target=work, args=(str(i),)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == sorted(str(i) for i in range(5) for _ in range(10))


def test_a_ticket_that_still_runs_says_so(engine: Engine, do: Any) -> None:
    ticket = do(engine, "tokens 100000")
    with pytest.raises(errors.EngineError, match="not finished"):
        ticket.wait(0.01)
    assert not ticket.wait_done(0.01)
    engine.cancel()


def test_cancel_stops_the_running_command_within_300_ms(engine: Engine, until: Any, do: Any) -> None:
    ticket = do(engine, "tokens 100000")
    until(engine.poll)
    asked = time.monotonic()
    engine.cancel()
    with pytest.raises(errors.Cancelled):
        ticket.wait(5)
    assert time.monotonic() - asked < 0.3
    assert do(engine, "tokens 2").wait(5)["tokens"] == 2


def test_cancel_right_after_submit_is_not_lost(engine: Engine, do: Any) -> None:
    for _ in range(20):
        ticket = do(engine, "tokens 100000")
        engine.cancel()
        with pytest.raises(errors.Cancelled):
            ticket.wait(5)


def test_cancel_drops_a_waiting_command_at_once_and_only_that(engine: Engine, do: Any) -> None:
    running, waiting, last = do(engine, "tokens 200"), do(engine, "tokens 9"), do(engine, "tokens 2")
    engine.cancel(waiting)
    with pytest.raises(errors.Cancelled, match="before it started"):
        waiting.wait(5)
    assert not running.done
    assert running.wait(20)["tokens"] == 200
    assert last.wait(20)["tokens"] == 2


def test_cancel_with_nothing_to_cancel_does_nothing(engine: Engine, do: Any) -> None:
    engine.cancel()
    ticket = do(engine, "tokens 1")
    ticket.wait(5)
    engine.cancel(ticket)
    engine.cancel()
    assert do(engine, "tokens 1").wait(5)


@pytest.mark.parametrize("name", sorted(errors.BY_NAME))
def test_an_error_crosses_as_itself(engine: Engine, name: str, do: Any) -> None:
    with pytest.raises(errors.BY_NAME[name], match=r"^the sentence$") as caught:
        do(engine, f"raise {name}").wait(10)
    assert type(caught.value) is errors.BY_NAME[name]


def test_a_surprise_is_one_sentence_and_a_log(engine: Engine, do: Any) -> None:
    with pytest.raises(errors.EngineError, match=r"failed inside .*ZeroDivisionError") as caught:
        do(engine, "raise ZeroDivisionError").wait(10)
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    assert engine.log is not None
    assert str(engine.log) in text
    assert "do_raise" in engine.log.read_text()
    assert do(engine, "tokens 1").wait(5)


def test_memory_that_is_not_there_is_one_sentence(engine: Engine, do: Any) -> None:
    with pytest.raises(errors.OutOfMemory, match="ran out of memory"):
        do(engine, "memory").wait(10)
    assert do(engine, "tokens 1").wait(5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(engine: Engine, do: Any) -> None:
    with pytest.raises(errors.StoreError, match="disk is full"):
        do(engine, "full /dev/full").wait(10)
    assert do(engine, "tokens 1").wait(5)


def test_killed_mid_run(engine: Engine, start_scripted: Callable[[], Engine], until: Any, do: Any) -> None:
    ticket, waiting = do(engine, "tokens 100000"), do(engine, "tokens 1")
    until(engine.poll)
    killed = time.monotonic()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(errors.EngineDied, match="signal 9") as caught:
        ticket.wait(5)
    assert time.monotonic() - killed < 1.0
    assert "\n" not in str(caught.value)
    with pytest.raises(errors.EngineDied):
        waiting.wait(1)
    assert not engine.alive
    assert engine.reason == str(caught.value)
    dead = [e for e in engine.poll() if isinstance(e, EngineState)]
    assert [e.state for e in dead] == ["dead"]
    with pytest.raises(errors.EngineDied):
        do(engine, "tokens 1")
    assert do(start_scripted(), "tokens 1").wait(20)


def test_an_exit_tells_its_code(engine: Engine, do: Any) -> None:
    with pytest.raises(errors.EngineDied, match="exit code 3"):
        do(engine, "exit 3").wait(5)


def test_a_process_that_cannot_start_quotes_its_log(monkeypatch: pytest.MonkeyPatch, until: Any) -> None:
    engine = Engine(process.Child("no_such_module_at_all"))
    until(lambda: not engine.alive)
    assert "could not start" in engine.reason
    assert "no_such_module_at_all" in engine.reason
    assert "\n" not in engine.reason
    with pytest.raises(errors.EngineDied, match="could not start"):
        engine.submit(Unload())
    engine.close()


def test_an_engine_that_cannot_get_ready_answers_with_the_reason(
        start_scripted: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_BROKEN", "1")
    engine = start_scripted()
    with pytest.raises(errors.EngineError, match=r"libcudart.*workbench doctor"):
        engine.submit(Load(settings={})).wait(20)


PARENT = """
import sys, time, threading
from workbench.engine.client import Engine, Generate
from workbench.engine.process import Child
made = []
thread = threading.Thread(target=lambda: made.append(Engine(Child("scripted_worker"))))
thread.start(); thread.join()          # the thread that starts it ends long before the process
engine = made[0]
while engine.state != "ready": time.sleep(0.01)
engine.submit(Generate(run_id="r", settings={}, prompts=["tokens 1000000"]))
print(engine.pid, flush=True)
time.sleep(60)
"""


def test_the_worker_ends_with_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    client = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert client.stdout is not None
    worker = psutil.Process(int(client.stdout.readline()))
    time.sleep(0.6)
    assert worker.is_running()
    client.kill()
    client.wait()
    psutil.wait_procs([worker], timeout=5)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_in_the_terminal_does_not_reach_it(engine: Engine, do: Any) -> None:
    os.kill(engine.pid, signal.SIGINT)
    assert do(engine, "tokens 1").wait(5)
    assert os.getsid(engine.pid) != os.getsid(0)


def test_it_has_no_stdin_no_secret_in_sight_and_is_the_first_to_go(engine: Engine, do: Any) -> None:
    assert do(engine, "input").wait(5)["read"] == ""
    facts = do(engine, "facts").wait(5)
    secret = engine._child.server.secret  # type: ignore[union-attr]
    assert secret not in " ".join(facts["argv"])
    assert secret not in " ".join(facts["environment"].values())
    assert facts["environment"]["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert "torch" not in facts["modules"]
    score = Path(f"/proc/{engine.pid}/oom_score_adj")
    assert not score.exists() or int(score.read_text()) >= 500


def test_close_ends_the_process_and_may_be_called_twice(engine: Engine, do: Any) -> None:
    ticket = do(engine, "tokens 100000")
    pid = engine.pid
    engine.close()
    engine.close()
    assert not engine.alive
    assert not psutil.pid_exists(pid)
    assert ticket.done
    with pytest.raises(errors.EngineDied, match="closed"):
        engine.submit(Unload())


def test_close_while_starting_leaves_nothing(start_scripted: Callable[[], Engine]) -> None:
    engine = start_scripted()
    pid = engine.pid
    engine.close()
    assert not psutil.pid_exists(pid)


def test_two_engines_do_not_mix(start_scripted: Callable[[], Engine], engine: Engine, do: Any) -> None:
    other = start_scripted()
    tickets = [do(engine, "tokens 5", run="a"), do(other, "tokens 7", run="b")]
    assert [t.wait(20)["tokens"] for t in tickets] == [5, 7]
    assert engine.pid != other.pid


def test_logs_do_not_pile_up(home: Path) -> None:
    paths = [process.log_path() for _ in range(30)]
    assert len(list((home / "logs").iterdir())) == 20
    assert paths[0].parent == home / "logs"
