"""A masked-diffusion model through the ordinary runtime: events, text, settings, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.errors import SettingsError
from workbench.events import Commit, Effective, Phase, Token
from workbench.runtime import load
from workbench.settings import Settings
from workbench.shape import from_file

PROMPT = "reverse tiger apple drum lemon ="


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the bundled kind, trained for a moment by the bundled one's recipe."""
    from workbench.zoo.recipes import diffusion

    path = tmp_path_factory.mktemp("dlm")
    model = diffusion.train(diffusion.DiffusionRecipe(hidden=32, layers=2, heads=2, ff=64, steps=30,
                                                      batch=32, warmup=5))
    model.save_pretrained(path)
    diffusion.write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return Settings().with_({"model.source": str(folder), "weights": "fp32", "compute.threads": 1,
                             "telemetry.preset": "off"})


@pytest.fixture(scope="module")
def model(settings: Settings) -> Any:
    return load(settings, lambda event: None)


def run(model: Any, settings: Settings, **changes: Any) -> tuple[Any, list[Any]]:
    events: list[Any] = []
    chosen = settings.with_({k.replace("__", "."): v for k, v in changes.items()})
    return model.generate([PROMPT], chosen, events.append, lambda: False), events


@pytest.mark.parametrize("name", ["plain", "diffusion_threshold", "diffusion_freedave",
                                  "diffusion_credit", "diffusion_localleap", "diffusion_entropy"])
def test_commits_come_as_they_happen_and_text_in_order(model: Any, settings: Settings, name: str
                                                       ) -> None:
    out, events = run(model, settings, decoding=name)
    commits = [e for e in events if isinstance(e, Commit)]
    assert sorted(c.place for c in commits) == list(range(12))
    tokens = [e for e in events if isinstance(e, Token)]
    assert [t.index for t in tokens] == list(range(len(tokens)))
    assert "".join(t.text for t in tokens) == out.texts[0]
    phases = [e for e in events if isinstance(e, Phase)]
    assert sum(p.tokens for p in phases) == 12
    assert all(p.end_s >= p.start_s for p in phases)


def test_plain_is_one_place_a_forward_and_freedave_gives_its_text(model: Any, settings: Settings
                                                                  ) -> None:
    plain, events = run(model, settings)
    assert plain.forwards == 12
    assert [c.step for c in events if isinstance(c, Commit)] == list(range(1, 13))
    dave, _ = run(model, settings, decoding="diffusion_freedave")
    assert dave.tokens == plain.tokens


def test_the_same_as_the_library_form(model: Any, settings: Settings, folder: Path) -> None:
    from workbench.diffusion.canvas import fill
    from workbench.diffusion.model import open_model

    other = open_model(folder)
    method: Any = settings.with_({"decoding": "diffusion_threshold"}).decoding
    want = fill(other, other.encode(PROMPT), method)
    out, _ = run(model, settings, decoding="diffusion_threshold")
    assert out.tokens[0] == want.tokens
    assert out.forwards == want.forwards


def test_packed_weights_work_too(settings: Settings) -> None:
    packed = load(settings.with_({"weights": "int8"}), lambda event: None)
    out, events = run(packed, settings.with_({"weights": "int8"}))
    assert out.forwards == 12
    said = {e.path: e for e in events if isinstance(e, Effective)}
    assert "canvas" in said["limits.max_new_tokens"].effective
    assert "none" in said["kv"].effective


def test_drafting_is_refused_for_a_canvas_and_canvases_for_the_others(
        settings: Settings, folder: Path, tiny_config: Path) -> None:
    from workbench.machine import this_machine

    machine = this_machine()
    with pytest.raises(SettingsError, match="masked-diffusion model"):
        settings.with_({"decoding": "prompt_lookup"}).check(from_file(folder), machine)
    with pytest.raises(SettingsError, match="from left to right"):
        settings.with_({"decoding": "diffusion_threshold"}).check(from_file(tiny_config), machine)
    settings.check(from_file(folder), machine)


def test_a_word_it_does_not_know_is_one_sentence(model: Any, settings: Settings) -> None:
    with pytest.raises(SettingsError, match="does not know the word 'rhinoceros'"):
        model.generate(["copy rhinoceros ="], settings, lambda e: None, lambda: False)


def test_a_session_runs_it(folder: Path) -> None:
    import workbench as wb

    with wb.open(folder, inline=True, warm=False, preset="off", power=False, weights="fp32") as bench:
        names = {c.path: c for c in bench.controls()}["decoding"]
        assert "prompt_lookup" in names.unavailable
        assert "diffusion_threshold" not in names.unavailable
        run = bench.run(PROMPT, wait=True, decoding="diffusion_threshold")
        assert run.status == "done"
        assert any(isinstance(e, Commit) for e in bench.store.open(run.id).events)


def test_the_panel_draws_the_canvas(folder: Path) -> None:
    import workbench as wb
    from workbench.panels import panel

    with wb.open(folder, inline=True, warm=False, preset="off", power=False, weights="fp32") as bench:
        base = bench.run(PROMPT, wait=True)
        run = bench.run(PROMPT, wait=True, decoding="diffusion_freedave")
        said = panel("canvas").content(run, base)
        assert said.sentences[-1] == "The text is the same as the baseline's."
        assert len(said.figures) == 2
        figure = said.figures[1]["data"][0]
        assert len(figure["z"]) == 12
        assert [sum(v is not None for v in row) for row in figure["z"]] == [1] * 12
        assert panel("canvas").content(base).actions[0].changes == {"decoding": "diffusion_threshold"}
