"""The handle on an engine: start or connect, submit, poll, cancel, close. Safe from any thread.

One thread of this process owns the socket. Commands leave through it, events gather in a list that
``poll`` empties, results settle tickets. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from workbench.engine.keys import KeyPair, load_pair, load_public
from workbench.engine.ticket import Ticket
from workbench.engine.wire import (
    Beat,
    Cancel,
    Command,
    Done,
    Evaluate,
    Events,
    Generate,
    Hello,
    Leave,
    Load,
    MeasureCeilings,
    Message,
    Refused,
    Shutdown,
    Unload,
    decode_for_client,
    encode,
)
from workbench.errors import EngineDied, WireError, WorkbenchError
from workbench.events import EngineState, Event

if TYPE_CHECKING:
    from workbench.engine.process import Child

__all__ = ["Engine", "Evaluate", "Generate", "Load", "MeasureCeilings", "Ticket", "Unload"]

#: Seconds between two looks at the child process and the clock.
_LOOK_S = 0.1
_BEAT_S = 1.0
#: Silence after which a remote engine counts as gone although its connection stands.
_SILENCE_S = 30.0


class Engine:
    """One engine, local or remote. Make one with :meth:`start` or :meth:`connect`.

    ``state``: ``starting ready loading running evaluating unloaded dead``; ``pid``: its process."""

    def __init__(self, child: Child | None = None, address: str = "", server: str = "",
                 keys: KeyPair | None = None) -> None:
        """A local ``child``, or a remote ``address`` with its public key and our pair."""
        import zmq

        self._child, self._address, self._server = child, address, server
        self._keys = keys or (child.client if child else KeyPair.new())
        self._lock = threading.Lock()
        self._tickets: dict[int, Ticket] = {}
        self._numbers = itertools.count(1)
        self._events: list[Event] = []
        self._outbox: list[Message] = [Hello()]
        self._heard = time.monotonic()
        self._end: WorkbenchError | None = None
        self._closing = threading.Event()
        self._greeted = False
        self.state = "starting"
        self.pid = child.pid if child is not None else 0
        self._context = zmq.Context()
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind("inproc://wake")
        self._thread = threading.Thread(target=self._run, name="workbench-engine", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, inline: bool = False) -> Any:
        """A new engine in a child process; ``inline`` runs it in this one, for debugging.

        Returns at once with state ``starting``. Raises EngineDied when the child cannot start."""
        if inline:
            import importlib

            # By name: the client must not import the runtime unless it is asked to be one.
            return importlib.import_module("workbench.engine.inline").Inline()
        from workbench.engine.process import Child

        return cls(Child())

    @classmethod
    def connect(cls, address: str, server_key: str | Path, client_keys: str | Path,
                timeout: float = 10) -> Engine:
        """A remote engine, e.g. ``tcp://gpu-box:5555``. ``server_key``: its public key file;
        ``client_keys``: our secret key file. Raises WireError when it does not let us in."""
        engine = cls(None, address, load_public(server_key), load_pair(client_keys))
        deadline = time.monotonic() + timeout
        while not engine._greeted and engine._end is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if not engine._greeted:
            engine._die(WireError(f"no engine answered at {address} within {timeout:g} s; check the "
                                  "address, that it runs, and that no firewall is between"))
        if engine._end is not None:
            engine.close()
            raise engine._end
        return engine

    # -- any thread -------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        self._look()
        return self._end is None and not self._closing.is_set()

    @property
    def reason(self) -> str:
        """Why it is dead, in one sentence; empty while it lives."""
        return str(self._end) if self._end is not None else ""

    @property
    def log(self) -> Path | None:
        """The local engine's log file."""
        return self._child.log if self._child is not None else None

    def submit(self, command: Command) -> Ticket:
        """Queue a command. Raises EngineDied (or what ended the engine) when it is gone."""
        if not self.alive:
            raise self._end or EngineDied("the engine is closed; open the model again")
        ticket = Ticket(next(self._numbers))
        with self._lock:
            self._tickets[ticket.number] = ticket
            self._outbox.append(msgspec.structs.replace(command, ticket=ticket.number))
        if self._end is not None:  # it died in between; nobody else would settle this one
            ticket.settle({}, self._end)
        self._nudge()
        return ticket

    def cancel(self, ticket: Ticket | None = None) -> None:
        """Stop this command, running or waiting; None: the oldest that has not ended."""
        with self._lock:
            number = ticket.number if ticket is not None else min(self._tickets, default=0)
            if number not in self._tickets:
                return
            self._outbox.append(Cancel(ticket=number))
        self._nudge()

    def poll(self) -> list[Event]:
        """What arrived since the last call."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def close(self, timeout: float = 3.0) -> None:
        """End the engine (a remote one is only left). Idempotent."""
        with self._lock:
            if self._closing.is_set():
                return
            self._outbox.append(Shutdown() if self._child is not None else Leave())
            self._closing.set()
        self._nudge()
        self._thread.join(timeout)
        if self._child is not None:
            self._child.end(timeout, told=self._greeted)
        self._settle_all(EngineDied("the engine was closed"))
        self.state = "dead"
        with self._lock:
            self._wake.close(0)
        if not self._thread.is_alive():
            # Its sockets are closed. Never destroy(): it closes the sockets of a thread that is
            # still inside one, and libzmq then aborts the whole process.
            self._context.term()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _nudge(self) -> None:
        import zmq

        with self._lock, contextlib.suppress(zmq.ZMQError):  # a full pipe wakes the thread as well
            if not self._wake.closed:
                self._wake.send(b"", zmq.NOBLOCK)

    # -- the socket's thread ----------------------------------------------------------------

    def _run(self) -> None:
        import zmq

        try:
            if self._child is not None:
                self._address = self._child.address(self._closing.is_set)
                self._server = self._child.server.public
            if self._address:
                self._serve()
        except WorkbenchError as error:
            self._die(error)
        except zmq.ContextTerminated:
            pass  # closed while this thread was slow
        except zmq.ZMQError as error:
            self._die(WireError(f"{self._address} is not an address that can be used "
                                f"({error.strerror}); write it like tcp://host:5555"))
        except Exception as error:  # a bug of ours must not leave tickets waiting for ever
            self._die(EngineDied(f"the connection to the engine failed inside the workbench: "
                                 f"{error!r}"))

    def _serve(self) -> None:
        import zmq

        socket = _dealer(self._context, self._server, self._keys)
        monitor = socket.get_monitor_socket(_monitored())
        wake = self._context.socket(zmq.PAIR)
        try:
            socket.connect(self._address)
            wake.connect("inproc://wake")
            poller = zmq.Poller()
            for each in (socket, wake, monitor):
                poller.register(each, zmq.POLLIN)
            beaten = time.monotonic()
            while self._end is None:
                poller.poll(int(1000 * _LOOK_S))
                while wake.poll(0):
                    wake.recv()
                closing = self._closing.is_set()
                self._send(socket)
                while socket.poll(0):
                    self._heard = time.monotonic()
                    self._receive(decode_for_client(socket.recv()))
                if closing:
                    break
                while monitor.poll(0):
                    self._connection(zmq.utils.monitor.recv_monitor_message(monitor))
                if time.monotonic() - beaten > _BEAT_S:
                    beaten = time.monotonic()
                    with contextlib.suppress(zmq.Again):
                        socket.send(encode(Beat()), zmq.NOBLOCK)
                self._look()
        finally:
            socket.disable_monitor()
            monitor.close(0)
            socket.close()
            wake.close(0)

    def _send(self, socket: Any) -> None:
        """What waits, as far as it goes. Between two attempts to connect there is nobody to send to;
        waiting in ``send`` for that would miss why the connection failed."""
        import zmq

        with self._lock:
            outbox, self._outbox = self._outbox, []
        for sent, message in enumerate(outbox):
            try:
                socket.send(encode(message), zmq.NOBLOCK)
            except zmq.Again:
                with self._lock:
                    self._outbox[:0] = outbox[sent:]
                return

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
                ticket.settle_with(message)
        elif isinstance(message, Hello):
            self.pid, self.state, self._greeted = message.pid, message.state, True
        elif isinstance(message, Refused):
            self._die(WireError(message.reason))

    def _connection(self, happened: dict[str, Any]) -> None:
        """What the socket library tells about the connection itself."""
        import zmq

        if happened["event"] != zmq.EVENT_DISCONNECTED:
            self._die(WireError(f"the engine at {self._address} refused our key, or is not the one "
                                "whose key was given; give the two sides each other's public key"))
        elif self._child is None and self._greeted:
            self._die(EngineDied(f"the connection to the engine at {self._address} was lost; "
                                 "finished runs are safe; connect again"))

    def _look(self) -> None:
        """Is it still there?"""
        if self._end is not None or self._closing.is_set():
            return
        if self._child is not None:
            if self._child.ended:
                self._die(EngineDied(self._child.obituary(started=self._greeted)))
        elif self._greeted and time.monotonic() - self._heard > _SILENCE_S:
            self._die(EngineDied(f"the engine at {self._address} has been silent for "
                                 f"{_SILENCE_S:g} s; check the network and that it still runs"))

    def _die(self, error: WorkbenchError) -> None:
        with self._lock:
            if self._end is not None:
                return
            self._end, self.state = error, "dead"
            self._events.append(EngineState(state="dead", detail=str(error)))
        self._settle_all(error)

    def _settle_all(self, error: WorkbenchError) -> None:
        with self._lock:
            tickets, self._tickets = list(self._tickets.values()), {}
        for ticket in tickets:
            ticket.settle({}, error)


def _dealer(context: Any, server: str, keys: KeyPair) -> Any:
    import zmq
    import zmq.utils.monitor

    socket = context.socket(zmq.DEALER)
    socket.linger = 500
    socket.sndhwm = socket.rcvhwm = 0
    # Answered by the socket library's own thread, however busy Python is on either side.
    socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 8000
    socket.reconnect_ivl = 20
    socket.curve_serverkey = server.encode()
    socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
    return socket


def _monitored() -> int:
    import zmq

    return int(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
               | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
