"""Passwords, cookies, redirects."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.apps import auth
from workbench.errors import SettingsError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    auth.add_user(path, "ada", "correct horse")
    return path


def test_the_file_holds_no_password_and_is_private(file: Path) -> None:
    text = file.read_text()
    assert "correct horse" not in text
    assert text.startswith("ada:scrypt$")
    assert file.stat().st_mode & 0o077 == 0


def test_two_users_with_one_password_have_different_hashes(file: Path) -> None:
    auth.add_user(file, "bob", "correct horse")
    lines = file.read_text().splitlines()
    assert len(lines) == 2
    assert lines[0].split(":")[1] != lines[1].split(":")[1]


def test_a_new_password_replaces_the_old(file: Path) -> None:
    auth.add_user(file, "ada", "another horse")
    users = auth.Passwords(file)
    assert users.check("ada", "another horse", "here")
    assert not users.check("ada", "correct horse", "here")


@pytest.mark.parametrize(("name", "password"), [
    ("ada", "wrong"), ("nobody", "correct horse"), ("", ""), ("ada", "")])
def test_wrong_ones_are_refused(file: Path, name: str, password: str) -> None:
    assert not auth.Passwords(file).check(name, password, "here")


def test_guessing_is_slowed_per_address(file: Path) -> None:
    users = auth.Passwords(file)
    for _ in range(5):
        assert users.wait_s("here") == 0
        users.check("ada", "wrong", "here")
    assert users.wait_s("here") > 25
    assert users.wait_s("elsewhere") == 0


@pytest.mark.parametrize("text", ["ada:secret\n", "ada\n", "../x:scrypt$a$b\n", "# nobody\n"])
def test_a_file_in_clear_or_empty_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    with pytest.raises(SettingsError, match="--add-user"):
        auth.Passwords(path)


def test_a_missing_file_and_bad_names_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        auth.Passwords(tmp_path / "none")
    with pytest.raises(SettingsError, match="not a user name"):
        auth.add_user(tmp_path / "u", "../up", "long enough")
    with pytest.raises(SettingsError, match="at least 8"):
        auth.add_user(tmp_path / "u", "ada", "short")


def test_cookies_prove_one_kind_of_user_under_one_key(file: Path) -> None:
    guests, users = auth.Identity("k" * 32), auth.Identity("k" * 32, auth.Passwords(file))
    assert guests.user_of(guests.sign("g1")) == "g1"
    assert users.user_of(users.sign("ada")) == "ada"
    assert users.user_of(guests.sign("ada")) is None  # a guest named ada is not ada
    assert users.user_of(users.sign("gone")) is None  # no longer in the file
    assert auth.Identity("x" * 32).user_of(guests.sign("g1")) is None
    assert guests.user_of(guests.sign("g1")[:-2] + "00") is None
    assert guests.user_of(None) is None


@pytest.mark.parametrize(("target", "goes"), [
    ("/", "/"), ("/report?runs=a", "/report?runs=a"), ("//evil.example", "/"),
    ("https://evil.example", "/"), ("/\\evil.example", "/"), ("javascript:alert(1)", "/"),
    ("", "/"), ("/a\\b", "/")])
def test_sign_in_never_leads_elsewhere(target: str, goes: str) -> None:
    assert auth._local(target) == goes
