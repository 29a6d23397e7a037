"""The worker's side of the connection: one thread that owns the socket.

It receives commands and cancellations, and sends events in batches: at most about thirty messages
per second, tokens within 50 ms. One client at a time has the seat; when it leaves or its connection
breaks, what it wanted is stopped and its model is unloaded.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from typing import Any

from workbench.engine.desk import Desk
from workbench.engine.wire import (
    VERSION,
    Beat,
    Cancel,
    Command,
    Done,
    Events,
    Hello,
    Leave,
    Message,
    Refused,
    Shutdown,
    Unload,
    decode_for_worker,
    encode,
)
from workbench.errors import WireError
from workbench.events import EngineState, Event

#: Seconds between batches of events while a command runs.
_BATCH_S = 0.033
#: Seconds between looks at the clock and the parent when there is nothing to do.
_IDLE_S = 0.25
_BEAT_S = 1.0


class Link:
    """``desk`` holds the commands for the main thread; ``emit`` and ``finish`` take its results."""

    def __init__(self, address: str, public: str, secret: str, clients: set[str],
                 parent: int = 0) -> None:
        """Binds at once. ``clients``: public keys that may connect; ``parent``: the process whose
        end is this one's, 0 for none. Raises WireError."""
        import zmq

        self.desk = Desk()
        self._lock = threading.Lock()
        self._events: list[Any] = []
        self._out: list[Message] = []
        self._parent, self._client, self._state = parent, b"", "starting"
        self._lobby: list[tuple[bytes, bytes]] = []
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._authenticator = _admit(self._context, clients)
        self._socket = _listener(self._context, public, secret)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._authenticator.stop()
            raise WireError(f"cannot listen on {address} ({error.strerror}); choose another "
                            "address or port") from None
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind("inproc://wake")
        self._thread = threading.Thread(target=self._run, name="workbench-link", daemon=True)
        self._thread.start()

    # -- the main thread and the meters' threads ----------------------------------------------

    def emit(self, event: Event) -> None:
        """Queue an event for the next batch. From any thread; about 0.2 µs."""
        with self._lock:
            self._events.append(event)
            if isinstance(event, EngineState):
                self._state = event.state

    def finish(self, done: Done) -> None:
        """The running command's result, after all its events, at once."""
        with self._lock:
            self._out += [*self._batch(), done]
        self.desk.finish()
        self._nudge()

    def close(self) -> None:
        """Send what is left and stop."""
        self._stopping.set()
        self._nudge()
        self._thread.join(2)
        self._authenticator.stop()

    def _nudge(self) -> None:
        import zmq

        with self._lock, contextlib.suppress(zmq.ZMQError):
            self._wake.send(b"", zmq.NOBLOCK)

    def _batch(self) -> list[Message]:
        events, self._events = self._events, []
        return [Events(events=events)] if events else []

    # -- the link's thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:  # a process that nobody can reach must not live on
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)

    def _serve(self) -> None:
        import zmq

        wake = self._context.socket(zmq.PAIR)
        wake.connect("inproc://wake")
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(wake, zmq.POLLIN)
        sent = beaten = 0.0
        while not self._stopping.is_set():
            poller.poll(int(1000 * (_BATCH_S if self.desk.busy or self._events else _IDLE_S)))
            while wake.poll(0):
                wake.recv()
            while self._socket.poll(0):
                self._lobby.append(tuple(self._socket.recv_multipart()))
            # Nobody enters while the last client's work is stopping: its events are not theirs.
            if self._client or not self.desk.busy:
                arrived, self._lobby = self._lobby, []
                for identity, frame in arrived:
                    self._client_says(identity, frame)
            now = time.monotonic()
            if self._out or now - sent >= _BATCH_S:
                self._flush()
                sent = now
            if now - beaten >= _BEAT_S:
                self._send(self._client, Beat())
                beaten = now
            if self._parent and os.getppid() != self._parent:
                os._exit(0)  # the client is gone; nobody is left to tell
        self._flush()
        self._socket.close()
        wake.close(0)

    def _flush(self) -> None:
        with self._lock:
            out, self._out = [*self._out, *self._batch()], []
        for message in out:
            self._send(self._client, message)

    def _send(self, identity: bytes, message: Message) -> None:
        import zmq

        if not identity:
            return
        try:
            self._socket.send_multipart([identity, encode(message)])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            if identity == self._client:
                self._vacate()

    def _client_says(self, identity: bytes, frame: bytes) -> None:
        try:
            message = decode_for_worker(frame)
        except WireError as error:
            self._send(identity, Refused(reason=str(error)))
            return
        if isinstance(message, Hello):
            self._greet(identity, message)
        elif identity != self._client:
            self._send(identity, Refused(reason="say hello first"))
        elif isinstance(message, Cancel):
            if self.desk.cancel(message.ticket):
                self._send(identity, Done(ticket=message.ticket, error="Cancelled",
                                          reason="cancelled before it started"))
        elif isinstance(message, Leave):
            self._vacate()
        elif isinstance(message, Shutdown):
            self.desk.clear()
            self.desk.put(message)
        elif isinstance(message, Command):
            self.desk.put(message)

    def _greet(self, identity: bytes, hello: Hello) -> None:
        if hello.version != VERSION:
            reason = (f"this engine speaks protocol version {VERSION} and the client version "
                      f"{hello.version}; install the same version of the workbench on both sides")
        elif self._client and self._client != identity and self._still_there():
            reason = "another client uses this engine; let it close first"
        else:
            reason = ""
        if reason:
            self._send(identity, Refused(reason=reason))
            return
        self._client = identity
        self._send(identity, Hello(pid=os.getpid(), state=self._state))

    def _still_there(self) -> bool:
        """Sending to a client whose connection broke fails, and that frees its seat."""
        self._send(self._client, Beat())
        return bool(self._client)

    def _vacate(self) -> None:
        """The client is gone: stop its work, give its memory back, free the seat."""
        self._client = b""
        with self._lock:
            self._events, self._out = [], []
        self.desk.clear()
        self.desk.put(Unload())


def _listener(context: Any, public: str, secret: str) -> Any:
    import zmq

    socket = context.socket(zmq.ROUTER)
    socket.linger = 500
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = public.encode(), secret.encode()
    # A gone client is an error to see, a slow one is waited for: nothing is dropped in silence.
    socket.router_mandatory = True
    socket.sndhwm = socket.rcvhwm = 0
    # Answered by the socket library's own thread, however busy Python is on either side.
    socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 8000
    return socket


def _admit(context: Any, clients: set[str]) -> Any:
    """Only these public keys pass the handshake (ZAP, https://rfc.zeromq.org/spec/27)."""
    from zmq.auth.thread import ThreadAuthenticator

    keys = {c.encode() for c in clients}

    class Known:
        def callback(self, domain: str, key: bytes) -> bool:
            return key in keys

    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(domain="*", credentials_provider=Known())
    return authenticator
