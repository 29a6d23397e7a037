"""The handle on an engine: start or connect, submit, poll, cancel, close. Safe from any thread.

One thread of this process owns the socket. Commands leave through it, events gather in a list that
``poll`` empties, results settle tickets. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from typing import Any

import msgspec

from workbench.engine.keys import KeyPair, load_pair, load_public
from workbench.engine.wire import (
    Beat,
    Cancel,
    Command,
    Done,
    Evaluate,
    Events,
    Generate,
    Hello,
    Load,
    MeasureCeilings,
    Message,
    Refused,
    Shutdown,
    Unload,
    decode_for_client,
    encode,
)
from workbench.errors import BY_NAME, EngineDied, EngineError, WireError, WorkbenchError
from workbench.events import EngineState, Event

__all__ = ["Engine", "Evaluate", "Generate", "Load", "MeasureCeilings", "Ticket", "Unload"]

#: Silence after which a remote engine counts as gone. A local one is watched as a process.
_SILENCE_S = 6.0
_BEAT_S = 1.0


class Ticket:
    """The promise of one command's result."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._done = threading.Event()
        self._result: dict[str, Any] = {}
        self._error: WorkbenchError | None = None

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait_done(self, timeout: float | None = None) -> bool:
        """Wait without raising; True when the command has ended."""
        return self._done.wait(timeout)

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """The result. Raises what ended the command; EngineError when it still runs."""
        if not self._done.wait(timeout):
            raise EngineError("the engine has not finished this command yet")
        if self._error is not None:
            raise self._error
        return self._result

    def settle(self, result: dict[str, Any], error: WorkbenchError | None = None) -> None:
        self._result, self._error = result, error
        self._done.set()


class Engine:
    """One engine, local or remote. Make one with :meth:`start` or :meth:`connect`."""

    def __init__(self, address: str, server: str, keys: KeyPair, process: Any = None) -> None:
        """``server``: the engine's public key; ``process``: a local child, watched for its end."""
        self._address, self._server, self._keys, self._process = address, server, keys, process
        self._lock = threading.Lock()
        self._tickets: dict[int, Ticket] = {}
        self._numbers = itertools.count(1)
        self._events: list[Event] = []
        self._outbox: list[Message] = [Hello()]
        self._heard = time.monotonic()
        self._dead = ""
        self._closing = threading.Event()
        self.state = "starting"
        self.pid = process.pid if process is not None else 0
        self._wake_address = f"inproc://workbench-{id(self)}"
        import zmq

        self._context = zmq.Context()
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind(self._wake_address)
        self._thread = threading.Thread(target=self._serve, name="workbench-engine", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, inline: bool = False) -> Any:
        """A new engine in a child process; ``inline`` runs it in this one, for debugging.

        Returns at once with state ``starting``. Raises EngineDied when the child cannot start."""
        if inline:
            import importlib

            # By name: the client must not import the runtime unless it is asked to be one.
            return importlib.import_module("workbench.engine.inline").Inline()
        from workbench.engine.process import spawn

        process, address, server, keys = spawn()
        return cls(address, server, keys, process)

    @classmethod
    def connect(cls, address: str, server_key: str, client_keys: str, timeout: float = 10) -> Engine:
        """A remote engine. ``server_key``, ``client_keys``: key files. Raises WireError."""
        engine = cls(address, load_public(server_key), load_pair(client_keys))
        deadline = time.monotonic() + timeout
        while engine.state == "starting" and time.monotonic() < deadline:
            time.sleep(0.02)
        if engine.state == "starting" or engine._dead:
            reason = engine._dead or (f"no engine answered at {address} within {timeout:g} s; check "
                                      "the address, that it runs, and that each side has the "
                                      "other's key")
            engine.close()
            raise WireError(reason)
        return engine

    # -- any thread -------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        if self._process is not None and self._process.poll() is not None and not self._dead:
            self._die(f"the engine process ended unexpectedly ({_how(self._process)}); finished "
                      "runs are safe and the next run starts a new engine")
        return not self._dead and not self._closing.is_set()

    def submit(self, command: Command) -> Ticket:
        """Queue a command. Raises EngineDied when the engine is gone."""
        if not self.alive:
            raise EngineDied(self._dead or "the engine is closed; open the model again")
        ticket = Ticket(next(self._numbers))
        with self._lock:
            self._tickets[ticket.number] = ticket
        self._send(msgspec.structs.replace(command, ticket=ticket.number))
        return ticket

    def cancel(self, ticket: Ticket | None = None) -> None:
        """Stop this command, or the running one."""
        self._send(Cancel(ticket=ticket.number if ticket else 0))

    def poll(self) -> list[Event]:
        """What arrived since the last call."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def close(self, timeout: float = 3.0) -> None:
        """End the engine (a remote one is only left). Idempotent."""
        if self._closing.is_set():
            return
        if self._process is not None and not self._dead:
            self._send(Shutdown())
        self._closing.set()
        self._nudge()
        self._thread.join(timeout)
        if self._process is not None:
            from workbench.engine.process import end

            end(self._process, timeout)
        for ticket in self._take_tickets():
            ticket.settle({}, EngineDied("the engine was closed"))
        self.state = "dead"
        with self._lock:
            self._wake.close(0)
        self._context.destroy(0)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: Message) -> None:
        with self._lock:
            self._outbox.append(message)
        self._nudge()

    def _nudge(self) -> None:
        import zmq

        with self._lock:
            if not self._wake.closed:
                # A full pipe wakes the thread as well.
                with contextlib.suppress(zmq.ZMQError):
                    self._wake.send(b"", zmq.NOBLOCK)

    # -- the socket's thread ----------------------------------------------------------------

    def _serve(self) -> None:
        import zmq

        socket = self._context.socket(zmq.DEALER)
        socket.linger = 500
        socket.curve_serverkey = self._server.encode()
        socket.curve_publickey = self._keys.public.encode()
        socket.curve_secretkey = self._keys.secret.encode()
        socket.connect(self._address)
        wake = self._context.socket(zmq.PAIR)
        wake.connect(self._wake_address)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(wake, zmq.POLLIN)
        beaten = time.monotonic()
        try:
            while True:
                ready = dict(poller.poll(200))
                if wake in ready:
                    while wake.poll(0):
                        wake.recv()
                with self._lock:
                    outbox, self._outbox = self._outbox, []
                for message in outbox:
                    socket.send(encode(message))
                while socket.poll(0):
                    self._heard = time.monotonic()
                    self._receive(decode_for_client(socket.recv()))
                now = time.monotonic()
                if now - beaten > _BEAT_S:
                    socket.send(encode(Beat()))
                    beaten = now
                if self._closing.is_set() or not self.alive:
                    break
                if self._process is None and self.state != "starting" \
                        and now - self._heard > _SILENCE_S:
                    self._die(f"the engine at {self._address} has been silent for {_SILENCE_S:g} s;"
                              " check the network and that it still runs")
        except WireError as error:
            self._die(str(error))
        except zmq.ContextTerminated:
            pass
        finally:
            socket.close()
            wake.close(0)

    def _receive(self, message: Any) -> None:
        if isinstance(message, Events):
            with self._lock:
                self._events.extend(message.events)
            for event in message.events:
                if isinstance(event, EngineState):
                    self.state = event.state
        elif isinstance(message, Done):
            with self._lock:
                ticket = self._tickets.pop(message.ticket, None)
            if ticket is not None:
                kind = BY_NAME.get(message.error, EngineError)
                ticket.settle(message.result, kind(message.reason) if message.error else None)
        elif isinstance(message, Hello):
            self.pid = message.pid
            self.state = "ready"
        elif isinstance(message, Refused):
            self._die(message.reason)

    def _die(self, reason: str) -> None:
        with self._lock:
            if self._dead:
                return
            self._dead, self.state = reason, "dead"
            self._events.append(EngineState(state="dead", detail=reason))
        for ticket in self._take_tickets():
            ticket.settle({}, EngineDied(reason))

    def _take_tickets(self) -> list[Ticket]:
        with self._lock:
            tickets, self._tickets = list(self._tickets.values()), {}
        return tickets


def _how(process: Any) -> str:
    """``killed by signal 9`` or ``exit code 1``."""
    code = process.returncode
    return f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
