"""One file that stands alone, whatever the runs lack and whatever their text says."""

from __future__ import annotations

import re

import pytest

from workbench import events as ev
from workbench.errors import StoreError, WorkbenchError
from workbench.report import html, write
from workbench.settings import Settings
from workbench.store import Run, Store, replay

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"


def make(events, label="a label", prompt="a prompt", **changes) -> Run:
    writer = Store().record(Settings().with_(changes), prompt, label,
                            environment={"machine": {"cpu": "A CPU", "cores": 2,
                                                     "memory_bytes": 1 << 33}})
    writer.add(events)
    return writer.finish()


@pytest.fixture
def pair(synthetic):
    return [make(synthetic.plain(20) + synthetic.kernels() + synthetic.power(0.4), "base"),
            make(synthetic.speculative(6), "fast", decoding="prompt_lookup")]


def body(text: str) -> str:
    """The page without its scripts and styles, white space as a browser shows it."""
    return " ".join(re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S).split())


def test_two_runs(pair):
    text = html(pair)
    page = body(text)
    for part in ("base against fast", "Requested and effective", "How to reproduce", "Environment",
                 "A CPU", "workbench run --prompt &#39;a prompt&#39; --set decoding=prompt_lookup",
                 "why not", "ms per token"):
        assert part in page, part
    assert text.count("<script") == text.count("</script>")


def test_no_address_of_another_host_is_ever_loaded(pair):
    page = html(pair)
    assert not re.search(r"(src|href|action|poster|srcset)\s*=\s*[\"']?(https?:)?//", body(page))
    assert "@import" not in page.split("</style>")[0]
    assert "default-src &#39;none&#39;" in page


def test_the_policy_lists_the_scripts_that_run(pair):
    import base64
    import hashlib

    page = html(pair)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_one_run_and_many(synthetic, pair):
    one = body(html(pair[:1]))
    assert "base against" not in one
    assert "Milliseconds per token" not in one
    many = [make(synthetic.plain(10 + i), f"slow: {i}", f"prompt {i}") for i in range(3)]
    page = body(html([*pair, *many]))
    assert "5 runs of 2 configurations" in page
    assert "standard deviation" in page


def test_text_is_text(synthetic):
    tokens = [ev.Token(t_s=0.1 * i, index=i, id=i, text=EVIL, step=i) for i in range(3)]
    other = [ev.Token(t_s=0.1 * i, index=i, id=9, text=EVIL[::-1], step=i) for i in range(3)]
    effective = [ev.Effective(path=EVIL, requested=EVIL, effective=EVIL, honoured=False, reason=EVIL)]
    runs = [make(tokens + effective, EVIL, EVIL), make(other, EVIL + "2", EVIL, weights="int4")]
    text = html(runs, title=EVIL)
    assert "<img" not in body(text)
    assert "alert(1)&lt;/script&gt;" in body(text)
    assert "{{ 7*7 }}" in body(text)
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, flags=re.S):
        assert "<" not in data


@pytest.mark.parametrize("events", [
    [], [ev.RunEnded(status="failed", reason="out of memory")],
    [ev.Token(t_s=0.1, index=0, id=0, text="a")]])
def test_runs_that_have_almost_nothing(events, synthetic):
    page = body(html([make(events, "thin"), make(synthetic.plain(), "whole", weights="int4")]))
    assert "n/a" in page
    assert "What is missing, and why" in page
    assert "None" not in re.sub(r"<[^>]*>", "", page)


def test_a_replay_gives_the_same_report(pair):
    played = [replay(r, speed=float("inf")) for r in pair]
    strip = re.compile(r"report made [^<]*")
    assert strip.sub("", body(html(played))) == strip.sub("", body(html(pair)))


def test_writing(pair, tmp_path):
    path = write(pair, tmp_path / "deep" / "r.html", title="A title")
    assert "<title>A title</title>" in path.read_text()
    assert write(pair, tmp_path).name == "report.html"
    with pytest.raises(WorkbenchError, match="at least one run"):
        html([])
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="writing the report failed"):
        write(pair, tmp_path / "file" / "r.html")


def test_settings_that_this_version_cannot_read(pair):
    run = Store().open(pair[1].id)
    run.record.requested["decoding"] = {"name": "oracle"}
    page = body(html([pair[0], run]))
    assert "oracle" in page


def test_doubt_is_spoken(synthetic):
    noisy = [make(synthetic.plain(20, step_s=s), f"{name}: {i}", f"prompt {i}", **changes)
             for name, changes, speeds in (("base", {}, (0.01, 0.03)),
                                           ("other", {"weights": "int8"}, (0.012, 0.033)))
             for i, s in enumerate(speeds)]
    assert "repeat on a quiet machine" in body(html(noisy))
    steady = [make(synthetic.plain(20, step_s=s), f"{name}: {i}", f"prompt {i}", **changes)
              for name, changes, speeds in (("base", {}, (0.010, 0.011)),
                                            ("other", {"weights": "int8"}, (0.030, 0.031)))
              for i, s in enumerate(speeds)]
    assert "repeat on a quiet machine" not in body(html(steady))
