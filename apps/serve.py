"""``serve``: the dashboard as a web server, safe by default.

It listens on loopback unless told otherwise; beyond it, sign-in is required (or ``insecure`` said
aloud). Websocket origins are restricted to the address that was asked for, sessions are signed,
uploads and lifetimes bounded, and the page loads nothing from any other host.

    workbench serve
    workbench serve --users users.txt --add-user ada
    workbench serve --host 0.0.0.0 --users users.txt
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bokeh.application.handlers import FunctionHandler
from bokeh.events import ConnectionLost
from bokeh.models import CustomJS
from tornado.httputil import HTTPHeaders
from tornado.ioloop import IOLoop
from tornado.web import OutputTransform, StaticFileHandler

from workbench.apps import files, offline, page
from workbench.apps.auth import COOKIE, SAFE_HEADERS, Identity, Passwords, WhoAmI
from workbench.apps.hub import Hub, Lifetimes
from workbench.apps.offline import Application, Server, pn
from workbench.apps.policy import Policy
from workbench.apps.view import PERIOD_MS, View
from workbench.errors import SettingsError, WorkbenchError
from workbench.machine import home
from workbench.settings import Settings
from workbench.store import Store

if TYPE_CHECKING:
    from bokeh.document import Document

_log = logging.getLogger(__name__)
TITLE = "Inference Workbench"
#: A tab that lost its connection is gone after this long (milliseconds).
_LINGER_MS, _CHECK_MS = 15_000, 5_000


@dataclass
class Running:
    """A started server. ``address`` is what to open."""

    server: Server
    hub: Hub
    host: str
    port: int

    @property
    def address(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{'localhost' if self.host in ('0.0.0.0', '::') else name}:{self.port}/"

    def stop(self) -> None:
        """End the server, its runs and its engine."""
        with contextlib.suppress(AssertionError):
            self.server.stop()
        self.hub.close()


def serve(host: str = "127.0.0.1", port: int = 5006, *, password_file: str | Path | None = None,
          model_folders: Sequence[str | Path] = (), settings: Settings | None = None,
          cookie_secret: str | None = None, origins: Sequence[str] = (), hub_ids: bool = False,
          open_browser: bool = False, insecure: bool = False) -> None:
    """Serve until interrupted. Raises SettingsError with one sentence before anything listens."""
    running = start(host, port, password_file=password_file, model_folders=model_folders,
                    settings=settings, cookie_secret=cookie_secret, origins=origins,
                    hub_ids=hub_ids, insecure=insecure)
    loop = running.server.io_loop
    print(f"The dashboard is at {running.address}  (Ctrl+C ends it)", flush=True)
    if open_browser:
        loop.add_callback(lambda: running.server.show("/"))
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):
            signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))
    try:
        loop.start()
    finally:
        running.stop()


def start(host: str = "127.0.0.1", port: int = 5006, *, password_file: str | Path | None = None,
          model_folders: Sequence[str | Path] = (), settings: Settings | None = None,
          cookie_secret: str | None = None, origins: Sequence[str] = (), hub_ids: bool = False,
          insecure: bool = False, hub: Hub | None = None,
          lifetimes: Lifetimes | None = None) -> Running:
    """Listen, without entering the event loop. ``origins``: further ``host:port`` that browsers
    may come from, e.g. a reverse proxy's."""
    check_address(host, password_file is not None, insecure)
    passwords = Passwords(Path(password_file).expanduser()) if password_file is not None else None
    identity = Identity(cookie_secret or kept_secret(), passwords, page.login_page)
    folders = tuple(_folder(f) for f in model_folders)
    if hub is None:
        # Without sign-in on loopback the one at the browser is the machine's user: show his runs.
        shared = Store() if passwords is None and is_loopback(host) else None
        hub = Hub(settings=settings, policy=Policy(folders=folders, hub=hub_ids), shared=shared,
                  lifetimes=lifetimes)
    page.configure()
    try:
        port = port or free_port(host)
        server = _server(host, port, hub, identity, origins)
    except OSError as error:
        hub.close()
        raise SettingsError(f"cannot listen on {host}:{port} ({error.strerror or error}); "
                            "choose another --port, or end the program that uses it") from None
    server.start()
    return Running(server, hub, host, server.port or port)


def _server(host: str, port: int, hub: Hub, identity: Identity, origins: Sequence[str]) -> Server:
    app = Application(FunctionHandler(lambda doc: open_tab(doc, hub, identity)))
    app.add(WhoAmI(identity))
    names = _own_names(host)
    allowed = [f"{name}:{port}" for name in names]
    return Server(
        {"/": app}, port=port, address=host, io_loop=IOLoop.current(),
        allow_websocket_origin=[*allowed, *origins], auth_provider=identity,
        cookie_secret=identity.secret, sign_sessions=True,
        secret_key=identity.secret.encode(), generate_session_ids=True,
        exclude_cookies=[COOKIE], exclude_headers=["Cookie", "Authorization"],
        extra_patterns=[(rf"/{page.ROUTE}/(.*)", StaticFileHandler, {"path": str(page.STATIC)}),
                        (rf"/{offline.ROUTE}/[^/]+/dist/(.*)", StaticFileHandler,
                         {"path": str(offline.DIST)}),
                        *files.routes(hub, identity)],
        websocket_max_message_size=hub.policy.max_upload_bytes * 4 // 3 + (1 << 20),
        unused_session_lifetime_milliseconds=_LINGER_MS, check_unused_sessions_milliseconds=_CHECK_MS,
        transforms=[Guarded])


def open_tab(doc: Document, hub: Hub, identity: Identity) -> None:
    """One browser tab: build its view, draw it periodically, say good-bye when it closes."""
    token = getattr(doc.session_context, "token_payload", None) or {}
    user = token.get(COOKIE)
    if not user:
        pn.pane.HTML("Open this page with cookies on.").server_doc(doc, title=TITLE)
        return
    try:
        workspace = hub.enter(user)
    except WorkbenchError as error:
        pn.pane.Str(str(error)).server_doc(doc, title=TITLE)
        return
    doc.on_session_destroyed(lambda _: hub.leave(workspace))  # type: ignore[arg-type]
    view = View(workspace, hub)
    template = page.template(view.parts(), user=user, signed_in=identity.passwords is not None)
    template.server_doc(doc, title=TITLE, location=False)
    doc.add_periodic_callback(view.tick, PERIOD_MS)
    doc.js_on_event(ConnectionLost, CustomJS(code="window.workbenchLost()"))


class Guarded(OutputTransform):
    """Every answer of this server, Bokeh's own included, carries the headers that keep it alone."""

    def transform_first_chunk(self, status_code: int, headers: HTTPHeaders, chunk: bytes,
                              finishing: bool) -> tuple[int, HTTPHeaders, bytes]:
        for name, value in SAFE_HEADERS.items():
            headers[name] = value
        return status_code, headers, chunk


def free_port(host: str) -> int:
    """A port that nobody uses now; the allowed origins need its number before the server binds."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, sign_in: bool, insecure: bool) -> None:
    """Raises SettingsError for an address that others can reach while nobody signs in."""
    if not host:
        raise SettingsError("the host is empty; give an address such as 127.0.0.1")
    if not is_loopback(host) and not sign_in and not insecure:
        raise SettingsError(
            f"{host} can be reached from other machines and nobody would have to sign in; "
            "add --users FILE (and --add-user NAME once), or say --insecure if that is meant")


def kept_secret() -> str:
    """The key that signs cookies and sessions; kept, so that a restart signs nobody out."""
    given = os.environ.get("WORKBENCH_COOKIE_SECRET")
    if given:
        return given
    path = home() / "cookie-secret"
    try:
        if path.exists():
            return path.read_text(encoding="ascii").strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        secret = secrets.token_hex(32)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret)
        return secret
    except OSError as error:
        _log.warning("the cookie secret cannot be kept (%s): a restart signs everybody out", error)
        return secrets.token_hex(32)


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise SettingsError(f"there is no model folder {folder}; create it or leave it out")
    return folder.resolve()


def _own_names(host: str) -> list[str]:
    """The names under which a browser may know this server."""
    if is_loopback(host):
        return ["localhost", "127.0.0.1"]
    names = [host, "localhost"]
    if host in ("0.0.0.0", "::"):
        names += [socket.gethostname(), socket.getfqdn()]
        with contextlib.suppress(OSError):
            names += [str(a[4][0]) for a in socket.getaddrinfo(socket.gethostname(), None)]
    # Bokeh takes no IPv6 address as an origin; such a server is reached by name.
    return [n for n in dict.fromkeys(names) if ":" not in n]

