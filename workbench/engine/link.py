"""The worker's side of the connection: one thread that owns the socket.

It receives commands and cancellations, and sends events in batches: at most about thirty messages
per second, tokens within 50 ms.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from typing import Any

from workbench.engine.wire import (
    VERSION,
    Beat,
    Cancel,
    Command,
    Done,
    Events,
    Hello,
    Message,
    Refused,
    Shutdown,
    decode_for_worker,
    encode,
)
from workbench.errors import Cancelled, WireError
from workbench.events import Event

#: Seconds between batches of events.
_BATCH_S = 0.033
_BEAT_S = 1.0
#: Events kept when the client reads slower than they come; older ones are dropped with a note.
_LIMIT = 200_000


class Link:
    """``commands`` for the main thread, ``emit`` and ``finish`` for its results."""

    def __init__(self, address: str, public: str, secret: str, clients: set[str],
                 parent: int = 0) -> None:
        """Binds at once. ``clients``: public keys that may connect. Raises WireError."""
        import zmq

        self.commands: queue.Queue[Any] = queue.Queue()
        self.running: int = 0
        self._cancelled: set[int] = set()
        self._waiting: list[int] = []
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._out: list[Message] = []
        self._parent, self._client = parent, b""
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._allow(clients)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 500
        self._socket.curve_server = True
        self._socket.curve_publickey, self._socket.curve_secretkey = public.encode(), secret.encode()
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise WireError(f"cannot listen on {address} ({error.strerror}); choose another "
                            "address or port") from None
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wake_address = "inproc://wake"
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind(self._wake_address)
        self._thread = threading.Thread(target=self._serve, name="link", daemon=True)
        self._thread.start()

    def _allow(self, clients: set[str]) -> None:
        """Only these keys pass the handshake (ZAP, RFC 27)."""
        from zmq.auth.thread import ThreadAuthenticator

        keys = {c.encode() for c in clients}

        class Known:
            def callback(self, domain: str, key: bytes) -> bool:
                return key in keys

        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="*", credentials_provider=Known())

    # -- the main thread --------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Queue an event; the link sends it with the next batch. From any thread."""
        with self._lock:
            self._events.append(event)

    def begin(self, command: Command) -> None:
        """This command runs now. Raises Cancelled when it was cancelled while it waited."""
        with self._lock:
            if command.ticket in self._waiting:
                self._waiting.remove(command.ticket)
            self.running = command.ticket
            if command.ticket in self._cancelled:
                raise Cancelled("cancelled before it started")

    def cancelled(self) -> bool:
        """Was the running command cancelled? Cheap: asked at every forward."""
        return self.running in self._cancelled

    def finish(self, done: Done) -> None:
        """The running command's result, after all its events."""
        with self._lock:
            self._cancelled.discard(done.ticket)
            self.running = 0
            self._out += [*self._batch(), done]
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
        return [Events(events=events[-_LIMIT:])] if events else []

    # -- the link's thread ------------------------------------------------------------------

    def _serve(self) -> None:
        import zmq

        wake = self._context.socket(zmq.PAIR)
        wake.connect(self._wake_address)
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(wake, zmq.POLLIN)
        beaten = 0.0
        while True:
            wait = _BATCH_S if self.running or self._events else 0.25
            ready = dict(poller.poll(wait * 1000))
            while wake in ready and wake.poll(0):
                wake.recv()
            while self._socket.poll(0):
                self._client_says(*self._socket.recv_multipart())
            stopping = self._stopping.is_set()
            with self._lock:
                out, self._out = [*self._out, *self._batch()], []
            if time.monotonic() - beaten > _BEAT_S:
                out.append(Beat())
                beaten = time.monotonic()
            if self._client:
                for message in out:
                    self._socket.send_multipart([self._client, encode(message)])
            if stopping:
                break
            if self._parent and os.getppid() != self._parent:
                os._exit(0)
        self._socket.close()
        wake.close(0)

    def _client_says(self, identity: bytes, frame: bytes) -> None:
        try:
            message = decode_for_worker(frame)
        except WireError as error:
            self._refuse(identity, str(error))
            return
        if isinstance(message, Hello):
            self._greet(identity, message)
        elif identity != self._client:
            self._refuse(identity, "another client uses this engine; close it first")
        elif isinstance(message, Cancel):
            with self._lock:
                ticket = message.ticket or self.running
                if ticket in (self.running, *self._waiting):
                    self._cancelled.add(ticket)
        elif isinstance(message, Shutdown):
            with self._lock:
                self._cancelled.update([self.running, *self._waiting])
            self.commands.put(message)
        elif isinstance(message, Command):
            with self._lock:
                self._waiting.append(message.ticket)
            self.commands.put(message)

    def _greet(self, identity: bytes, hello: Hello) -> None:
        if hello.version != VERSION:
            self._refuse(identity, f"this engine speaks version {VERSION} and the client version "
                         f"{hello.version}; install the same version on both sides")
            return
        self._client = identity
        self._socket.send_multipart([identity, encode(Hello(pid=os.getpid()))])

    def _refuse(self, identity: bytes, reason: str) -> None:
        self._socket.send_multipart([identity, encode(Refused(reason=reason))])
