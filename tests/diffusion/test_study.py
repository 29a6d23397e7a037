"""Quality against parallelism: what is counted, kept, drawn and said, on the bundled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench import zoo
from workbench.analysis.parallelism import FILE, Point, Study, fastest_good, read, recall, remember
from workbench.charts.canvas import parallelism
from workbench.cli import run_command
from workbench.diffusion import study as of
from workbench.errors import SettingsError
from workbench.zoo import list_tasks as tasks

DECODERS = ["diffusion_static(count=4)", "diffusion_threshold", "diffusion_freedave"]


@pytest.fixture(scope="module")
def found() -> Study:
    from workbench.diffusion.model import open_model

    return Study.from_dict(of.study(open_model(zoo.DIFFUSION), zoo.DIFFUSION, decoders=DECODERS,
                                    wanted=["copy", "shuffle"], examples=6))


def one(found: Study, task: str, decoder: str) -> Point:
    return next(p for p in found.points if (p.task, p.decoder) == (task, decoder))


def test_the_ordering_is_that_of_the_tasks(found: Study) -> None:
    """Parallel copying is right, parallel shuffling is not, and FreeDave writes the careful texts."""
    assert found.decoders == [of.CAREFUL, *DECODERS]
    wide = "diffusion_static(count=4)"
    assert one(found, "copy", wide).valid == 1.0
    assert one(found, "shuffle", wide).valid <= 1 / 6
    assert one(found, "shuffle", of.CAREFUL).valid >= 5 / 6
    for task in found.tasks:
        dave, careful = one(found, task, "diffusion_freedave"), one(found, task, of.CAREFUL)
        assert dave.same == careful.same == 6
        assert dave.per_forward > careful.per_forward
        assert dave.rows > dave.forwards
    assert one(found, "copy", wide).forwards * 4 == one(found, "copy", of.CAREFUL).forwards


def test_intervals_hold_the_share_and_stay_in_bounds() -> None:
    every, none, some = (Point("copy", "x", 60, right, 60, 60, 60, 0) for right in (60, 0, 30))
    assert every.interval[1] == 1.0
    assert 0.9 < every.interval[0] < 1.0  # sixty of sixty is no certainty
    assert none.interval[0] == 0.0
    assert 0.0 < none.interval[1] < 0.1
    low, high = some.interval
    assert low < 0.5 < high
    assert low == pytest.approx(0.3774, abs=1e-3)  # Wilson's, by hand


def test_the_figure_shows_telling_tasks_and_hides_none(found: Study) -> None:
    figure = parallelism(found, ["copy"], here=("copy", 2.5))
    line, copy, _, shuffle = figure["data"]
    assert (line["visible"], copy["visible"], shuffle["visible"]) == (True, True, "legendonly")
    assert copy["x"] == sorted(copy["x"])
    assert line["x"] == [max(copy["x"])]  # copying is right at any speed: the fastest beats all
    pareto = figure["data"][2]
    assert pareto["x"] == sorted(pareto["x"])
    assert pareto["y"] == sorted(pareto["y"], reverse=True)
    assert figure["layout"]["shapes"][0]["x0"] == 2.5
    assert parallelism(Study("m", 1, []))["layout"]["meta"]["empty"]


def test_it_is_kept_for_its_model_and_a_broken_file_is_nothing(found: Study, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    assert recall("some/model") is None
    remember("some/model", found.to_dict())
    kept = recall("some/model")
    assert kept is not None
    assert kept.points == found.points
    assert recall("other/model") is None
    (tmp_path / FILE).write_text(json.dumps(found.to_dict()).replace('"forwards": ', '"forwards": -'))
    assert read(tmp_path / FILE) is None


def test_what_the_bundled_model_ships_covers_everything() -> None:
    shipped = read(zoo.path(zoo.DIFFUSION) / FILE)
    assert shipped is not None
    assert set(shipped.tasks) == set(tasks.TASKS)
    assert shipped.decoders == list(of.DECODERS)
    assert set(shipped.determined) == set(tasks.DETERMINED)
    for task in tasks.TASKS:
        assert one(shipped, task, "diffusion_freedave").same == shipped.examples
    best = fastest_good(shipped.of("shuffle"))
    assert best is not None
    assert best.per_forward < 1.2 < 5 < one(shipped, "copy", "diffusion_threshold").per_forward


def test_the_panel_marks_the_run_and_offers_what_is_better(tmp_path: Path) -> None:
    """A real run: the line of its task, its speed, the most parallel decoder that is right."""
    import workbench as wb
    from workbench.panels import panel, plain
    from workbench.store import Store

    with wb.open(zoo.DIFFUSION, store=Store(tmp_path), inline=True, preset="off", power=False) as session:
        run = session.run("copy tiger apple drum lemon =", wait=True)
    content = panel("parallelism").content(run)
    assert not content.empty
    [figure] = content.figures
    visible = [t["name"] for t in figure["data"] if t["visible"] is True and "name" in t]
    assert {"copy", "shuffle"} <= set(visible)
    assert 0 < figure["layout"]["shapes"][0]["x0"] < 1  # one place per forward, and padding
    [offer] = content.actions
    assert offer.changes["decoding"] != "plain"
    assert any("break" in s and "shuffle" in s for s in content.sentences)
    assert content.tables[0].rows[0][1] >= content.tables[0].rows[-1][1]
    plain(content)


def test_names_that_do_not_exist_are_one_sentence() -> None:
    with pytest.raises(SettingsError, match="no task 'cpoy'"):
        of.study(None, "x", wanted=["cpoy"])  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="fills no canvas"):
        of.study(None, "x", decoders=["prompt_lookup"])  # type: ignore[arg-type]


def test_the_command_prints_a_line_per_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "diffusion", "--tasks", "copy", "--decoders", "diffusion_static(count=4)",
                        "--examples", "2", "--json"]) == 0
    points: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["points"]
    assert [(p["decoder"], p["right"]) for p in points] == [(of.CAREFUL, 2), ("diffusion_static(count=4)", 2)]
    assert run_command(["bench", "diffusion", "bundled"]) != 0
    assert "masked-diffusion" in capsys.readouterr().err
    assert run_command(["bench", "diffusion", "--tasks", "sing"]) == 2
    assert "no task 'sing'" in capsys.readouterr().err
