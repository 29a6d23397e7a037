"""Who is at the browser: sign-in with a hashed password file, or a signed guest cookie.

Both work without asking any other host. A password file has one line per user, ``name:hash``,
where the hash is scrypt with its own salt; ``workbench serve --users FILE --add-user NAME`` writes it.
Cookies are signed, HttpOnly and SameSite=Strict; they never appear in the page.

Scrypt parameters: RFC 7914; N=2**14, r=8, p=1 (about 50 ms and 16 MiB per attempt).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlparse

from bokeh.application.handlers import Handler
from bokeh.server.auth_provider import AuthProvider
from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler, create_signed_value, decode_signed_value

from workbench.errors import SettingsError

COOKIE = "workbench_user"
COOKIE_DAYS = 30
_N, _R, _P = 1 << 14, 8, 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHORTEST = 8
#: Failed attempts that one address may make before it waits, and for how long.
_ATTEMPTS, _LOCKED_S = 5, 30.0


def hash_password(password: str, salt: bytes | None = None) -> str:
    """``scrypt$salt$key``, base64; a new random salt unless one is given."""
    salt = salt or secrets.token_bytes(16)
    key = hashlib.scrypt(password.encode(), salt=salt, n=_N, r=_R, p=_P, maxmem=64 << 20)
    return "$".join(["scrypt", base64.b64encode(salt).decode(), base64.b64encode(key).decode()])


def verify_password(password: str, stored: str) -> bool:
    """Constant-time comparison; a malformed hash is never right."""
    try:
        kind, salt, _ = stored.split("$")
        again = hash_password(password, base64.b64decode(salt, validate=True))
    except ValueError:
        return False
    return kind == "scrypt" and hmac.compare_digest(again, stored)


_UNKNOWN = hash_password("nobody", b"0" * 16)


class Passwords:
    """name -> hash, read again when the file changes. Counts failures per address."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[int, float]] = {}
        self._read()

    def check(self, name: str, password: str, address: str) -> bool:
        """Whether this is the user's password. Takes the same time for unknown names."""
        stored = self._read().get(name)
        right = verify_password(password, stored or _UNKNOWN) and stored is not None
        with self._lock:
            if right:
                self._failures.pop(address, None)
            else:
                count = self._failures.get(address, (0, 0.0))[0] + 1
                self._failures[address] = (count, time.monotonic())
        return right

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 when it may."""
        count, last = self._failures.get(address, (0, 0.0))
        left = last + _LOCKED_S - time.monotonic()
        if left <= 0:
            self._failures.pop(address, None)
        return max(0.0, left) if count >= _ATTEMPTS else 0.0

    def has(self, name: str) -> bool:
        return name in self._read()

    def _read(self) -> dict[str, str]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise SettingsError(f"the password file {self.path} cannot be read "
                                f"({error.strerror}); make one with "
                                "`workbench serve --users FILE --add-user NAME`") from None
        users = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, stored = line.strip().partition(":")
            if not _NAME.fullmatch(name) or stored.count("$") != 2 \
                    or not stored.startswith("scrypt$"):
                raise SettingsError(f"line {number} of {self.path} is not name:hash; passwords are "
                                    "never stored in clear, make the line with "
                                    "`workbench serve --users FILE --add-user NAME`")
            users[name] = stored
        if not users:
            raise SettingsError(f"the password file {self.path} has no users; add one with "
                                "`workbench serve --users FILE --add-user NAME`")
        return users


def add_user(path: str | Path, name: str, password: str) -> None:
    """Write the user's line (a new password for one who is there); the file is the owner's only."""
    path = Path(path).expanduser()
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is not a user name; use letters, digits and . _ @ -")
    if len(password) < _SHORTEST:
        raise SettingsError(f"the password needs at least {_SHORTEST} characters")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.partition(":")[0].strip() != name]
        text = "\n".join([*kept, f"{name}:{hash_password(password)}"]) + "\n"
        aside = path.with_name(path.name + ".new")
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="utf-8") as file:
            file.write(text)
        os.replace(aside, path)
    except OSError as error:
        raise SettingsError(f"the password file {path} cannot be written ({error.strerror})"
                            ) from None


class Identity(AuthProvider):
    """Bokeh's hook: who is this request, and where to sign in.

    ``passwords`` None: everybody is a guest with a random name in a signed cookie, so that a
    browser keeps its workspace over a reload and a server restart, and no browser sees another's.
    """

    def __init__(self, secret: str, passwords: Passwords | None = None,
                 login_page: Callable[..., str] = lambda **_: "") -> None:
        self.secret, self.passwords, self.login_page = secret, passwords, login_page
        super().__init__()

    def user_of(self, cookie: str | None) -> str | None:
        """The user whom a cookie proves, or None."""
        value = decode_signed_value(self.secret, COOKIE, cookie, max_age_days=COOKIE_DAYS) \
            if cookie else None
        kind, _, name = value.decode("utf-8", "replace").partition(":") if value else ("", "", "")
        if self.passwords is None:
            return name if kind == "guest" else None
        return name if kind == "user" and self.passwords.has(name) else None

    def sign(self, user: str) -> str:
        kind = "guest" if self.passwords is None else "user"
        return create_signed_value(self.secret, COOKIE, f"{kind}:{user}").decode()

    @property
    def get_user(self) -> Callable[[HTTPServerRequest], Any]:
        # Bokeh annotates the request, and passes the handler.
        return lambda handler: self.user_of(handler.get_cookie(COOKIE))  # type: ignore[attr-defined]

    @property
    def get_user_async(self) -> None:
        return None

    @property
    def login_url(self) -> str:
        return "/login"

    @property
    def get_login_url(self) -> None:
        return None

    @property
    def login_handler(self) -> type[RequestHandler]:
        return type("Login", (_Login,), {"identity": self})

    @property
    def logout_url(self) -> str:
        return "/logout"

    @property
    def logout_handler(self) -> type[RequestHandler]:
        return type("Logout", (_Logout,), {"identity": self})


class _Page(RequestHandler):
    identity: Identity

    def _enter(self, user: str) -> None:
        self.set_cookie(COOKIE, self.identity.sign(user), httponly=True, samesite="Strict",
                        secure=self.request.protocol == "https", expires_days=COOKIE_DAYS)
        self.redirect(_local(self.get_argument("next", "/")))


class _Login(_Page):
    """The sign-in form; a guest is let in at once."""

    def get(self) -> None:
        if self.identity.passwords is None:
            self._enter(secrets.token_hex(8))
            return
        self._show("")

    async def post(self) -> None:
        import asyncio

        passwords, address = self.identity.passwords, self.request.remote_ip or ""
        if passwords is None:
            self._enter(secrets.token_hex(8))
            return
        if not _same_site(self):
            self.set_status(403)
            self.finish("Sign in from this server's own page.")
            return
        wait = passwords.wait_s(address)
        if wait:
            self.set_status(429)
            self._show(f"Too many attempts; try again in {wait:.0f} seconds.")
            return
        name, password = self.get_argument("username", ""), self.get_argument("password", "",
                                                                             strip=False)
        if await asyncio.to_thread(passwords.check, name, password[:1024], address):
            self._enter(name)
            return
        self.set_status(401)
        self._show("That name and password do not match.")

    def _show(self, error: str) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(self.identity.login_page(error=error, next=_local(self.get_argument("next", "/"))))


class _Logout(_Page):
    def get(self) -> None:
        self.clear_cookie(COOKIE)
        self.redirect("/login?" + urlencode({"next": "/"})
                      if self.identity.passwords is not None else "/")


class WhoAmI(Handler):
    """Puts the proven user into the session's signed token, so that no cookie goes to the page."""

    def __init__(self, identity: Identity) -> None:
        super().__init__()
        self._identity = identity

    def modify_document(self, doc: Any) -> None:
        return None

    def process_request(self, request: Any) -> dict[str, Any]:
        cookie = request.cookies.get(COOKIE)
        user = self._identity.user_of(cookie.value if cookie else None)
        return {COOKIE: user} if user else {}


#: Nothing from another host may load, nobody may frame the page. Bokeh and Plotly compile small
#: functions, hence 'unsafe-eval'; styles and the page's own start script are inline.
SAFE_HEADERS = {
    "Content-Security-Policy":
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' blob:; worker-src 'self' blob:; frame-ancestors 'none'; "
        "base-uri 'self'; form-action 'self'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def _local(target: str) -> str:
    """A path on this server; anything else becomes the front page (no open redirect)."""
    parsed = urlparse(target)
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and "\\" not in target
    return target if plain and not parsed.scheme and not parsed.netloc else "/"


def _same_site(handler: RequestHandler) -> bool:
    """Whether the form was sent from this server's own page (login forgery)."""
    origin = handler.request.headers.get("Origin")
    return origin is None or urlparse(origin).netloc == handler.request.host
