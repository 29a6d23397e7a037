"""The server over HTTP: addresses, sign-in, headers, downloads. No browser."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.apps.conftest import MakeHub
from workbench.apps import auth, serve
from workbench.errors import SettingsError


class Server:
    """A dashboard on its own event loop and thread."""

    def __init__(self, **options: Any) -> None:
        self._options, self._ready = options, threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        if self.error:
            raise self.error

    def _run(self) -> None:
        import asyncio

        asyncio.set_event_loop(asyncio.new_event_loop())
        try:
            self.running = serve.start(**{"port": 0, **self._options})
        except BaseException as error:
            self.error = error
            self._ready.set()
            return
        self._ready.set()
        self.running.server.io_loop.start()

    def stop(self) -> None:
        loop = self.running.server.io_loop
        loop.add_callback(loop.stop)
        self._thread.join(10)

    def ask(self, path: str, cookie: str = "", method: str = "GET", body: str | None = None,
            **headers: str) -> http.client.HTTPResponse:
        line = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=20)
        head = {**headers, **({"Cookie": cookie} if cookie else {})}
        if body is not None:
            head["Content-Type"] = "application/x-www-form-urlencoded"
        line.request(method, path, body=body, headers=head)
        answer = line.getresponse()
        answer.text = answer.read().decode("utf-8", "replace")  # type: ignore[attr-defined]
        return answer


@pytest.fixture
def guests(make_hub: MakeHub) -> Iterator[Server]:
    server = Server(hub=make_hub())
    yield server
    server.stop()


@pytest.fixture
def signed(make_hub: MakeHub, tmp_path: Path) -> Iterator[Server]:
    auth.add_user(tmp_path / "users", "ada", "correct horse")
    server = Server(hub=make_hub(), password_file=tmp_path / "users")
    yield server
    server.stop()


def cookie_of(answer: http.client.HTTPResponse) -> str:
    return (answer.getheader("Set-Cookie") or "").partition(";")[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_machines_need_sign_in(host: str) -> None:
    with pytest.raises(SettingsError, match="--users"):
        serve.check_address(host, sign_in=False, insecure=False)
    serve.check_address(host, sign_in=True, insecure=False)
    serve.check_address(host, sign_in=False, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_loopback_needs_none(host: str) -> None:
    serve.check_address(host, sign_in=False, insecure=False)


def test_a_missing_model_folder_and_a_taken_port_are_one_sentence(
        guests: Server, make_hub: MakeHub) -> None:
    with pytest.raises(SettingsError, match="no model folder"):
        Server(model_folders=["/nowhere/at/all"])
    with pytest.raises(SettingsError, match="choose another --port"):
        Server(hub=make_hub(), port=guests.running.port)


def test_a_guest_gets_a_private_signed_cookie_and_the_page(guests: Server) -> None:
    first = guests.ask("/")
    assert first.status == 302
    entry = guests.ask("/login?next=/")
    flags = (entry.getheader("Set-Cookie") or "").lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    page = guests.ask("/", cookie_of(entry))
    assert page.status == 200
    assert page.getheader("X-Frame-Options") == "DENY"
    assert "default-src 'self'" in (page.getheader("Content-Security-Policy") or "")
    secret = cookie_of(entry).partition("=")[2].strip('"')
    assert secret not in page.text  # type: ignore[attr-defined]


def test_the_page_names_no_other_host(guests: Server) -> None:
    page = guests.ask("/", cookie_of(guests.ask("/login"))).text  # type: ignore[attr-defined]
    loads = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"([^\"]+)\"", page)
    assert loads
    assert not [u for u in loads if "//" in u.replace("data:", "")], loads


def test_sign_in_is_asked_for_and_checked(signed: Server) -> None:
    assert signed.ask("/").status == 302
    assert "password" in signed.ask("/login").text  # type: ignore[attr-defined]
    wrong = signed.ask("/login", method="POST",
                       body=urlencode({"username": "ada", "password": "no"}))
    assert wrong.status == 401
    assert not wrong.getheader("Set-Cookie")
    right = signed.ask("/login?next=//evil.example", method="POST",
                       body=urlencode({"username": "ada", "password": "correct horse"}))
    assert right.status == 302
    assert right.getheader("Location") == "/"
    page = signed.ask("/", cookie_of(right))
    assert page.status == 200
    assert "Sign out" in page.text  # type: ignore[attr-defined]
    forged = auth.Identity("not the secret").sign("ada")
    assert signed.ask("/", f"{auth.COOKIE}={forged}").status == 302


def test_a_form_from_another_site_is_refused(signed: Server) -> None:
    answer = signed.ask("/login", method="POST", Origin="https://evil.example",
                        body=urlencode({"username": "ada", "password": "correct horse"}))
    assert answer.status == 403
    assert not answer.getheader("Set-Cookie")


def test_the_login_page_escapes(signed: Server) -> None:
    page = signed.ask("/login?next=" + "/%22%3E%3Cscript%3Ealert(1)%3C/script%3E").text  # type: ignore[attr-defined]
    assert "<script>alert(1)" not in page


def test_the_websocket_takes_no_strangers(guests: Server) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
               "Sec-WebSocket-Protocol": "bokeh, token"}
    cookie = cookie_of(guests.ask("/login"))
    assert guests.ask("/ws", cookie, Origin="https://evil.example", **upgrade).status == 403
    assert guests.ask("/ws", "", Origin=f"http://127.0.0.1:{guests.running.port}",
                      **upgrade).status == 403


def test_downloads_go_to_their_owner_only(guests: Server) -> None:
    mine, other = cookie_of(guests.ask("/login")), cookie_of(guests.ask("/login"))
    assert guests.ask("/report?runs=x").status == 403
    assert guests.ask("/report?runs=x", mine).status == 403  # no tab was opened yet
    guests.ask("/", mine)
    guests.ask("/", other)
    hub = guests.running.hub
    user = auth.Identity(serve.kept_secret()).user_of(mine.partition("=")[2].strip('"'))
    run = hub.peek(user or "").run("p")  # type: ignore[union-attr]
    assert run.wait(10)
    assert guests.ask(f"/bundle?runs={run.id}", other).status == 404
    answer = guests.ask(f"/bundle?runs={run.id}", mine)
    assert answer.status == 200
    assert "attachment" in (answer.getheader("Content-Disposition") or "")
    assert guests.ask("/bundle?runs=../../etc/passwd", mine).status == 404
    assert guests.ask(f"/{serve.page.ROUTE}/../serve.py", mine).status in (403, 404)
