"""CurveZMQ key pairs: the connection is encrypted and each side proves who it is.

Local engines get fresh keys for every start, handed over through the child's stdin; remote ones use
key files made by ``workbench engine --make-keys``.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench.errors import WireError


@dataclass(frozen=True)
class KeyPair:
    """Z85 text, 40 characters each."""

    public: str
    secret: str

    @classmethod
    def new(cls) -> KeyPair:
        import zmq

        if not zmq.has("curve"):
            raise WireError("this pyzmq was built without CurveZMQ; install pyzmq from its wheel")
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())


def save(folder: Path, name: str, pair: KeyPair) -> tuple[Path, Path]:
    """``name.public.json`` to give away and ``name.secret.json`` (mode 0600) to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    public, secret = folder / f"{name}.public.json", folder / f"{name}.secret.json"
    public.write_text(json.dumps({"public": pair.public}) + "\n")
    handle = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(asdict(pair)) + "\n")
    return public, secret


def load_pair(path: str | Path) -> KeyPair:
    """A ``*.secret.json`` file. Raises WireError with one sentence."""
    try:
        data = json.loads(Path(path).read_text())
        return KeyPair(_key(data["public"]), _key(data["secret"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise WireError(f"{path} is not a secret key file; make keys with "
                        "`workbench engine --make-keys --keys FOLDER`") from None


def load_public(path: str | Path) -> str:
    """The public key of either kind of key file. Raises WireError with one sentence."""
    try:
        return _key(json.loads(Path(path).read_text())["public"])
    except (OSError, ValueError, KeyError, TypeError):
        raise WireError(f"{path} is not a key file; it is made by "
                        "`workbench engine --make-keys --keys FOLDER`") from None


def _key(text: object) -> str:
    if not isinstance(text, str) or len(text) != 40:
        raise ValueError("a key is 40 characters of Z85")
    return text
