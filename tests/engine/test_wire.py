"""Messages survive the wire; what is none of ours is refused in one sentence."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import events as ev
from workbench.engine import wire
from workbench.errors import WireError

TO_WORKER = [
    wire.Hello(pid=3), wire.Beat(), wire.Load(ticket=1, settings={"seed": 0}),
    wire.Generate(ticket=2, run_id="r", settings={}, prompts=["ä\u2028<script>"]),
    wire.Evaluate(ticket=3, run_id="", settings={}, texts=["a"], save="/x"),
    wire.MeasureCeilings(full=True), wire.Unload(ticket=4), wire.Cancel(ticket=2), wire.Leave(),
    wire.Shutdown()]
TO_CLIENT = [
    wire.Hello(), wire.Refused(reason="no"), wire.Beat(state="running"),
    wire.Done(ticket=1, result={"a": [1, None, 2.5]}), wire.Done(ticket=1, error="OutOfMemory",
                                                                reason="full")]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda m: type(m).__name__)
def test_to_worker(message: wire.Message) -> None:
    assert wire.decode_for_worker(wire.encode(message)) == message


@pytest.mark.parametrize("message", TO_CLIENT, ids=lambda m: type(m).__name__)
def test_to_client(message: wire.Message) -> None:
    assert wire.decode_for_client(wire.encode(message)) == message


def example(kind: type[ev.Event]) -> ev.Event:
    """An event with a value in every field that must have one."""
    values = {str: "x", int: 3, float: 0.25, bool: True}
    required = {f.name: values.get(f.type) for f in msgspec.structs.fields(kind) if f.required}
    return kind(run="r", t_s=1.5, **required)


def test_every_event_type_crosses() -> None:
    sent = [example(kind) for kind in ev.TYPES.values()]
    got = wire.decode_for_client(wire.encode(wire.Events(events=sent)))
    assert got.events == sent
    assert [type(e) for e in got.events] == list(ev.TYPES.values())


@pytest.mark.parametrize("frame", [b"", b"\x00", b"GET / HTTP/1.1", msgspec.msgpack.encode({}),
                                   msgspec.msgpack.encode({"kind": "explode"}),
                                   msgspec.msgpack.encode({"kind": "cancel", "ticket": "one"})])
def test_garbage_is_refused_in_a_sentence(frame: bytes) -> None:
    with pytest.raises(WireError, match="same version"):
        wire.decode_for_worker(frame)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_else(frame: bytes) -> None:
    for decode in (wire.decode_for_worker, wire.decode_for_client):
        with contextlib.suppress(WireError):
            assert isinstance(decode(frame), wire.Message)


def test_a_deeply_nested_message_is_refused() -> None:
    start = msgspec.msgpack.encode({"kind": "load", "settings": {"a": None}})[:-1]
    with pytest.raises(WireError):
        wire.decode_for_worker(start + b"\x91" * 100_000 + b"\xc0")


def test_a_newer_hello_is_still_readable() -> None:
    """A later version may add fields; its Hello must decode so that the refusal can name versions."""
    frame = msgspec.msgpack.encode({"kind": "hello", "version": 99, "pid": 1, "new": [1]})
    assert wire.decode_for_worker(frame).version == 99
