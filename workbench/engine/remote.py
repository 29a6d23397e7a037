"""Engines for other machines: off by default, encrypted, both sides known by their keys."""

from __future__ import annotations

import re
from pathlib import Path

from workbench.engine.keys import KeyPair, load_pair, load_public, save
from workbench.errors import WireError

_LOOPBACK = re.compile(r"^tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\]):")


def make_keys(folder: Path) -> list[str]:
    """Two pairs, ``server`` and ``client``. Returns lines that say which file goes where."""
    save(folder, "server", KeyPair.new())
    save(folder, "client", KeyPair.new())
    return [f"{folder / 'server.secret.json'} and {folder / 'client.public.json'} stay here",
            f"{folder / 'client.secret.json'} and {folder / 'server.public.json'} go to the client"]


def listen(address: str, keys: Path | None) -> None:
    """Serve until interrupted. Raises WireError without keys: there is no open mode."""
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
        raise WireError(f"there is no client*.public.json in {keys}, so nobody could connect")
    link = Link(address, server.public, server.secret, clients)
    print(f"engine listening on {link.address} for {len(clients)} known client key(s)", flush=True)
    serve(link, make_executor)
