"""What client and worker say to each other: one tagged union of frozen structs, versioned.

Each message is one msgpack frame. The client's first message is ``Hello``; a worker of another
version answers ``Refused`` and listens no further to that client.
"""

from __future__ import annotations

from typing import Any

import msgspec

from workbench.errors import WireError
from workbench.events import AnyEvent

#: Changes whenever a message changes its meaning.
VERSION = 1


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all messages."""


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """First word of both sides. ``state``: the worker's, for a client that comes later."""

    version: int = VERSION
    pid: int = 0
    state: str = ""


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The worker will not work with this client."""

    reason: str


class Beat(Message, frozen=True, kw_only=True, tag="beat"):
    """I am alive. Sent both ways."""

    state: str = ""


class Command(Message, frozen=True, kw_only=True):
    """Work for the worker's main thread. ``ticket`` is given by the client on submission."""

    ticket: int = 0


class Load(Command, frozen=True, kw_only=True, tag="load"):
    """Load the model that the settings (``Settings.to_dict()``) describe."""

    settings: dict[str, Any]


class Generate(Command, frozen=True, kw_only=True, tag="generate"):
    """Generate for one run; loads what is not loaded."""

    run_id: str
    settings: dict[str, Any]
    prompts: list[str]


class Evaluate(Command, frozen=True, kw_only=True, tag="evaluate"):
    """Measure quality on texts. ``reference``: log-probabilities to compare with; ``save``: where
    to write this model's own."""

    run_id: str
    settings: dict[str, Any]
    texts: list[str]
    reference: str | None = None
    save: str | None = None


class MeasureCeilings(Command, frozen=True, kw_only=True, tag="ceilings"):
    """Measure this machine's bandwidths and rates and cache them."""

    full: bool = False


class Unload(Command, frozen=True, kw_only=True, tag="unload"):
    """Give the model's memory back."""


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop the command with this ticket, running or waiting."""

    ticket: int


class Leave(Message, frozen=True, kw_only=True, tag="leave"):
    """The client goes and the engine stays: stop its work, unload, serve the next one."""


class Shutdown(Message, frozen=True, kw_only=True, tag="shutdown"):
    """End the process."""


class Events(Message, frozen=True, kw_only=True, tag="events"):
    """What happened, in order."""

    events: list[AnyEvent]


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """A command ended. ``error`` names a class of ``workbench.errors``, empty on success."""

    ticket: int
    result: dict[str, Any] = msgspec.field(default_factory=dict)
    error: str = ""
    reason: str = ""


ToWorker = (Hello | Beat | Load | Generate | Evaluate | MeasureCeilings | Unload | Cancel | Leave
            | Shutdown)
ToClient = Hello | Refused | Beat | Events | Done

_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_client = msgspec.msgpack.Decoder(ToClient)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_for_worker(frame: bytes) -> Any:
    """Raises WireError for what is not a message of this version."""
    return _decode(_to_worker, frame)


def decode_for_client(frame: bytes) -> Any:
    """Raises WireError for what is not a message of this version."""
    return _decode(_to_client, frame)


def _decode(decoder: Any, frame: bytes) -> Any:
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, RecursionError) as error:  # ValidationError is a DecodeError
        raise WireError(f"a message of the other side cannot be read ({error}); run the same "
                        "version of the workbench on both sides") from None
