"""Ratios, verdicts, groups of repeats, and two texts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import analysis
from workbench import events as ev
from workbench.analysis import compare, group, summarize, table, textdiff


@dataclass
class Fake:
    id: str
    label: str
    metrics: dict[str, ev.Metric]
    settings_dict: dict = field(default_factory=dict)


@pytest.fixture
def pair(synthetic):
    return [Fake("a", "base", summarize(synthetic.plain(11)), {"weights": 1, "seed": 0}),
            Fake("b", "fast", summarize(synthetic.speculative()), {"weights": 2, "seed": 0})]


def test_ratios_and_verdicts(pair):
    frame = compare(pair)
    row = {r["metric"]: r for r in frame.rows(named=True) if r["run"] == "b"}
    assert row["tok_per_s"]["ratio"] == pytest.approx(11 / 4)
    assert row["tok_per_s"]["verdict"] == "better"
    assert row["tpot_s"]["verdict"] == "better"
    assert row["itl_p50_s"]["verdict"] == "worse"
    assert row["ttft_s"]["verdict"] == "same"
    assert row["new_tokens"]["verdict"] == ""
    assert row["peak_ram_bytes"]["value"] is None
    assert row["peak_ram_bytes"]["reason"] == "memory was not sampled"
    assert set(frame.filter(frame["run"] == "a")["verdict"]) == {"baseline"}


def test_another_baseline(pair):
    frame = compare(pair, baseline=pair[1])
    row = next(r for r in frame.rows(named=True) if r["run"] == "a" and r["metric"] == "tok_per_s")
    assert row["ratio"] == pytest.approx(4 / 11)


def test_nothing_to_compare():
    assert compare([]).is_empty()
    assert table([]) != []
    assert all(r["cells"] == [] for r in table([]))


def test_the_table_keeps_what_people_look_for(pair):
    rows = {r["metric"]: r for r in table(pair)}
    assert rows["j_per_token"]["cells"][0]["text"] == "n/a"
    assert rows["j_per_token"]["cells"][0]["note"]
    assert "peak_gpu_bytes" not in rows


def test_repeats_become_means(synthetic):
    runs = [Fake(str(i), f"slow: {i}", summarize(synthetic.plain(11, step_s=s)), {"w": 1, "seed": i})
            for i, s in enumerate((0.010, 0.012))]
    runs.append(Fake("9", "other", summarize(synthetic.plain(11)), {"w": 2}))
    groups = group(runs)
    assert [(g.label, len(g.runs)) for g in groups] == [("slow", 2), ("other", 1)]
    assert groups[0].metrics["tpot_s"].value == pytest.approx(0.012)
    assert groups[0].metrics["tpot_s"].se == pytest.approx(0.002 / 2**0.5)
    assert groups[1].metrics["tpot_s"] == runs[2].metrics["tpot_s"]
    assert groups[0].metrics["perplexity"].reason


def test_diff_of_equal_texts():
    same = textdiff("a b", "a b")
    assert same.same
    assert same.char is None
    assert same.summary == "The texts are identical."


def test_diff_finds_line_and_column():
    diff = textdiff("one\ntwo three", "one\ntwo trees")
    assert (diff.char, diff.line, diff.column) == (9, 2, 6)
    assert [p.op for p in diff.parts] == ["equal", "replace"]
    assert "line 2, column 6" in diff.summary


def test_diff_of_a_beginning():
    diff = textdiff("abc", "abc def")
    assert (diff.same, diff.char) == (False, 3)
    assert diff.parts[-1].op == "insert"


def test_diff_knows_tokens(synthetic):
    a = synthetic.plain(5)
    b = [ev.Token(t_s=e.t_s, index=e.index, id=7, text=e.text) if isinstance(e, ev.Token)
         and e.index == 3 else e for e in a]
    diff = textdiff(a, b)
    assert diff.token == 3
    assert diff.char is None
    assert not diff.same
    assert diff.summary == "The texts read the same, but token 3 is another one."


def test_a_long_piece_is_narrowed_down():
    a, b = "x" * 50 + "1" + "y" * 50, "x" * 50 + "2" + "y" * 50
    assert [(p.op, p.a, p.b) for p in textdiff(a, b).parts][1] == ("replace", "1", "2")


words = st.text(alphabet="ab \n<1", max_size=120)


@given(words, words)
def test_parts_rebuild_both_texts(a, b):
    diff = textdiff(a, b)
    assert "".join(p.a for p in diff.parts) == a
    assert "".join(p.b for p in diff.parts) == b
    assert diff.same == (a == b)
    assert all(p.a == p.b for p in diff.parts if p.op == "equal")
    assert 0 <= diff.similarity <= 1


def test_importing_analysis_is_cheap():
    import subprocess
    import sys

    code = "import sys, workbench.analysis, workbench.charts; print('polars' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert all(hasattr(analysis, name) for name in analysis.__all__)


def test_a_difference_within_the_spread_is_no_difference():
    def fake(name, value, se, metric="tok_per_s"):
        return Fake(name, name, {metric: ev.Metric(name=metric, value=value, se=se)})

    def verdicts(a, b):
        frame = compare([a, b])
        return {r["metric"]: r["verdict"] for r in frame.rows(named=True) if r["run"] == b.id}

    assert verdicts(fake("a", 36.0, 15.0), fake("b", 45.0, 12.0))["tok_per_s"] == "same"
    assert verdicts(fake("a", 36.0, 1.0), fake("b", 45.0, 1.0))["tok_per_s"] == "better"
    assert verdicts(fake("a", 30.0, 4.0, "perplexity"),
                    fake("b", 33.0, 4.0, "perplexity"))["perplexity"] == "worse"
