"""Engines over TCP: encrypted, both sides known, one client at a time, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.engine import keys, remote, wire
from workbench.engine.client import Engine
from workbench.errors import Cancelled, EngineDied, WireError

SERVER = """
import sys
from pathlib import Path
from scripted_worker import Scripted
from workbench.engine.remote import listen
listen("tcp://127.0.0.1:*", Path(sys.argv[1]), make=Scripted)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of one server and two clients."""
    path = tmp_path_factory.mktemp("keys")
    remote.make_keys(path)
    keys.save(path, "client-two", keys.KeyPair.new())
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(address, process) of a scripted engine that listens."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent),
                                                          str(Path(__file__).parents[2])])})
    assert process.stdout is not None
    yield process.stdout.readline().split()[3], process
    process.terminate()
    process.wait(10)


@pytest.fixture
def connect(server: tuple[str, Any], folder: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def connect(client: str = "client", timeout: float = 10) -> Engine:
        made.append(Engine.connect(server[0], folder / "server.public.json",
                                   folder / f"{client}.secret.json", timeout))
        return made[-1]

    yield connect
    for engine in made:
        engine.close()


def test_the_right_keys_work(connect: Callable[..., Engine], do: Any,
                             server: tuple[str, Any]) -> None:
    engine = connect()
    assert engine.state == "ready"
    assert engine.pid == server[1].pid
    assert do(engine, "tokens 5").wait(10) == {"run": "r", "tokens": 5}


def test_closing_leaves_the_engine_running_for_the_next_client(
        connect: Callable[..., Engine], do: Any) -> None:
    first = connect()
    do(first, "tokens 1").wait(10)
    first.close()
    second = connect("client-two")
    assert do(second, "tokens 2").wait(10)["tokens"] == 2


def test_what_a_leaving_client_ran_is_stopped_and_unloaded(
        connect: Callable[..., Engine], do: Any) -> None:
    first = connect()
    do(first, "tokens 100000")
    first.close()
    began = time.monotonic()
    second = connect("client-two")
    assert second.submit(wire.Load(settings={})).wait(5)["log"][-2:] == ["Unload", "Load"]
    assert time.monotonic() - began < 3
    assert second.poll() == []  # nothing of the first client's run


KILLED = """
import sys, time
from workbench.engine.client import Engine, Generate
engine = Engine.connect(*sys.argv[1:])
engine.submit(Generate(run_id="r", settings={}, prompts=["tokens 1000000"]))
print("connected", flush=True)
time.sleep(60)
"""


def test_a_killed_client_frees_the_seat(connect: Callable[..., Engine], server: tuple[str, Any],
                                        folder: Path) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", KILLED, server[0], folder / "server.public.json",
         folder / "client.secret.json"], stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline().strip() == b"connected"
    client.kill()
    client.wait()
    time.sleep(0.2)
    assert connect("client-two").submit(wire.Unload()).wait(5) == {}


def test_a_second_client_is_refused_while_the_first_works(
        connect: Callable[..., Engine], do: Any) -> None:
    first = connect()
    ticket = do(first, "tokens 100000")
    with pytest.raises(WireError, match="another client uses this engine"):
        connect("client-two")
    assert first.alive
    first.cancel()
    with pytest.raises(Cancelled):
        ticket.wait(5)


def test_an_unknown_client_key_is_refused(server: tuple[str, Any], folder: Path,
                                          tmp_path: Path) -> None:
    stranger = keys.save(tmp_path, "stranger", keys.KeyPair.new())[1]
    began = time.monotonic()
    with pytest.raises(WireError, match="refused our key"):
        Engine.connect(server[0], folder / "server.public.json", stranger, timeout=10)
    assert time.monotonic() - began < 5


def test_another_server_than_the_expected_is_not_trusted(server: tuple[str, Any], folder: Path,
                                                         tmp_path: Path) -> None:
    other = keys.save(tmp_path, "other", keys.KeyPair.new())[0]
    with pytest.raises(WireError, match=r"refused our key|no engine answered"):
        Engine.connect(server[0], other, folder / "client.secret.json", timeout=3)


def test_a_plain_socket_learns_nothing(server: tuple[str, Any]) -> None:
    """Without CURVE there is no handshake, so no message gets in and none comes out."""
    import zmq

    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(server[0])
        socket.send(wire.encode(wire.Hello()))
        assert socket.poll(700) == 0


def test_nobody_there(folder: Path) -> None:
    with pytest.raises(WireError, match=r"no engine answered at tcp://127\.0\.0\.1:9"):
        Engine.connect("tcp://127.0.0.1:9", folder / "server.public.json",
                       folder / "client.secret.json", timeout=0.5)


def test_an_address_that_is_none(folder: Path) -> None:
    with pytest.raises(WireError, match="write it like tcp://"):
        Engine.connect("gpu-box", folder / "server.public.json", folder / "client.secret.json")


def test_another_protocol_version_is_refused(
        connect: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.engine import client

    def encode(message: wire.Message) -> bytes:
        return wire.encode(wire.Hello(version=99) if isinstance(message, wire.Hello) else message)

    monkeypatch.setattr(client, "encode", encode)
    with pytest.raises(WireError, match=r"version 1 and the client version 99"):
        connect()


@pytest.mark.parametrize(("address", "says"), [
    ("tcp://0.0.0.0:5555", "not only this machine's"), ("tcp://127.0.0.1:5555", "needs keys")])
def test_no_listening_without_keys(address: str, says: str) -> None:
    with pytest.raises(WireError, match=says):
        remote.listen(address, None)


def test_no_listening_for_nobody(tmp_path: Path) -> None:
    keys.save(tmp_path, "server", keys.KeyPair.new())
    with pytest.raises(WireError, match=r"no client\*\.public\.json"):
        remote.listen("tcp://127.0.0.1:*", tmp_path)


def test_an_address_in_use(server: tuple[str, Any], folder: Path) -> None:
    with pytest.raises(WireError, match="cannot listen on"):
        remote.listen(server[0], folder)


def test_secret_keys_are_for_their_owner_only(folder: Path) -> None:
    for secret in folder.glob("*.secret.json"):
        assert secret.stat().st_mode & 0o077 == 0
    assert keys.load_pair(folder / "server.secret.json").secret not in (
        folder / "server.public.json").read_text()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"public": 3}'])
def test_a_key_file_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "k.json").write_text(content)
    with pytest.raises(WireError, match="key file"):
        keys.load_pair(tmp_path / "k.json")
    with pytest.raises(WireError, match="key file"):
        keys.load_public(tmp_path / "k.json")


def test_a_killed_engine_is_noticed(folder: Path, connect: Callable[..., Engine],
                                    server: tuple[str, Any], do: Any) -> None:
    """Last in this file: it ends the shared server."""
    engine = connect()
    ticket = do(engine, "tokens 100000")
    server[1].kill()
    killed = time.monotonic()
    with pytest.raises(EngineDied, match="was lost"):
        ticket.wait(10)
    assert time.monotonic() - killed < 1.5
    assert not engine.alive
