"""Engines for other machines: off by default, encrypted, both sides known by their keys."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.engine.keys import KeyPair, load_pair, load_public, save
from workbench.errors import WireError

if TYPE_CHECKING:
    from workbench.engine.serving import Make

_LOOPBACK = re.compile(r"^tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\]):")


def make_keys(folder: Path) -> list[str]:
    """A pair for the engine and one for a client. Returns lines that say which file goes where."""
    save(folder, "server", KeyPair.new())
    save(folder, "client", KeyPair.new())
    return [f"{folder / 'server.secret.json'} and {folder / 'client.public.json'} stay here",
            f"{folder / 'client.secret.json'} and {folder / 'server.public.json'} go to the client"]


def listen(address: str, keys: Path | None, make: Make | None = None) -> None:
    """Serve clients, one after another, until interrupted.

    Raises WireError without keys (there is no open mode) and for an address that cannot be used."""
    from workbench.engine.link import Link
    from workbench.engine.serving import serve
    from workbench.engine.worker import make_executor

    if keys is None:
        where = "" if _LOOPBACK.match(address) else " and this address is not only this machine's"
        raise WireError(f"a listening engine needs keys{where}; make them with "
                        "`workbench engine --make-keys --keys FOLDER` and give --keys FOLDER")
    server = load_pair(keys / "server.secret.json")
    clients = {load_public(p) for p in sorted(keys.glob("client*.public.json"))}
    if not clients:
        raise WireError(f"there is no client*.public.json in {keys}, so nobody could connect; copy "
                        "the client's public key there")
    link = Link(address, server.public, server.secret, clients)
    print(f"engine listening on {link.address} for {len(clients)} known client key(s); Ctrl-C ends "
          "it", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(link, make or make_executor)
    except KeyboardInterrupt:
        print("engine ended", flush=True)
        link.close()
    os._exit(0)  # torch's and CUDA's own threads must not delay the end
