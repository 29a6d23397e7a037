"""The settings tree: names, conversion, refusal, round trips, schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from workbench.errors import SettingsError
from workbench.settings import Settings, schema
from workbench.settings.tree import FAMILIES, setting_names
from workbench.techniques.base import Control, family


def values(knob: Control) -> st.SearchStrategy[Any]:
    """Anything a control accepts."""
    if knob.choices is not None:
        return st.sampled_from(knob.choices)
    if knob.type is bool:
        return st.booleans()
    if knob.type is str:
        return st.sampled_from(["auto", "cpu", "org/name", "ein ordner", "ü"])
    low, high = knob.low if knob.low is not None else -1e6, knob.high
    high = high if high is not None else 1e6
    if knob.type is int:
        return st.integers(int(low), int(high))
    return st.floats(low, high, allow_nan=False)


@st.composite
def configurations(draw: st.DrawFn) -> Settings:
    """A valid configuration; combinations that are refused are not drawn."""
    data: dict[str, Any] = {"seed": draw(st.integers(0, 2**40))}
    for name, (folder, _) in FAMILIES.items():
        chosen = draw(st.sampled_from(list(family(folder).values())))
        data[name] = {"name": chosen.name(),
                      **{k.name: draw(values(k)) for k in chosen.controls()}}
    data["sampling"] = {"temperature": draw(st.floats(0, 10)), "top_p": draw(st.floats(0.01, 1))}
    try:
        return Settings.from_dict(data)
    except SettingsError:
        return Settings()


@given(configurations())
@budget(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_and_yaml_round_trip_and_match_the_schema(settings: Settings) -> None:
    assert Settings.from_json(settings.to_json()) == settings
    assert Settings.from_yaml(settings.to_yaml()) == settings
    assert hash(settings.weights) == hash(Settings.from_json(settings.to_json()).weights)
    jsonschema.validate(json.loads(settings.to_json()), schema())


@pytest.mark.parametrize(("change", "message"), [
    ({"weights": "int5"}, r"no weights technique 'int5'.*valid: .*int4"),
    ({"kv": "int3"}, r"no kvcache technique 'int3'.*valid: .*full.*int8"),
    ({"gamma": 99}, r"gamma=99 is out of range; valid: 1 to 32"),
    ({"temperature": "hot"}, r"temperature='hot' must be a number"),
    ({"max_new_tokens": 1.5}, r"max_new_tokens=1.5 must be a whole number"),
    ({"max_new_tokens": 0}, r"out of range; valid: 1 to"),
    ({"top_p": float("nan")}, r"must be a number"),
    ({"stop_at_eos": "maybe"}, r"choose true or false"),
    ({"telemetry": "loud"}, r"choose one of off, light, kernels, deep"),
    ({"limits": 3}, r"limits has parts; set one of limits.max_new_tokens"),
    ({"wieghts": "int4"}, r"no setting 'wieghts' \(did you mean 'weights'\?\); valid: "),
    ({"seed": -1}, r"seed=-1 is out of range"),
    ({"weights.nonsense": 1}, r"nonsense"),
    ({"weights": "int4(groupp=32)"}, r"groupp"),
])
def test_bad_values_name_the_valid_ones(change: dict[str, Any], message: str) -> None:
    before = Settings()
    with pytest.raises(SettingsError, match=message) as caught:
        before.with_(change)
    assert "\n" not in str(caught.value)
    assert before == Settings()


def test_names_reach_what_they_mean() -> None:
    assert Settings().with_(draft="auto").decoding.name() == "draft_model"
    assert Settings().with_(gamma=7).to_dict()["decoding"]["gamma"] == 7
    assert Settings().with_({"weights.group": 64, "weights": "int4"}).to_dict()["weights"] == {
        **Settings().with_(weights="int4").to_dict()["weights"], "group": 64}
    assert Settings().with_(weights="int4(group=64)") == Settings().with_(
        {"weights": "int4", "weights.group": "64"})
    assert Settings().with_(temperature="0.5").sampling.temperature == 0.5
    assert Settings().with_(quality="quick").quality.level == "quick"


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().seed = 3  # type: ignore[misc]


def test_controls_cover_every_setting_and_carry_help() -> None:
    views = Settings().with_(weights="int4", decoding="draft_model").controls()
    paths = [v.path for v in views]
    assert len(paths) == len(set(paths))
    assert {"weights", "weights.group", "decoding.gamma", "sampling.temperature", "seed"} <= set(paths)
    assert all(v.help for v in views)
    for view in views:  # every view's path is accepted by with_
        Settings().with_(weights="int4", decoding="draft_model").with_({view.path: view.value})


def test_diff_and_label_say_what_changed() -> None:
    changed = Settings().with_(weights="int4", temperature=0.8)
    assert Settings().diff(changed)["weights"] == ("bf16", "int4")
    assert Settings().diff(changed)["sampling.temperature"] == (0.0, 0.8)
    assert "int4" in changed.label()
    assert "T=0.8" in changed.label()


def test_damaged_files_are_one_sentence() -> None:
    for read, text in ((Settings.from_json, "{"), (Settings.from_yaml, "a: [1"),
                       (Settings.from_yaml, "- 1"), (Settings.from_json, '{"wat": 1}')):
        with pytest.raises(SettingsError) as caught:
            read(text)
        assert str(caught.value)


def test_setting_names_are_unique_and_complete() -> None:
    names = setting_names()
    assert len(names) == len(set(names))
    assert {"weights", "kv", "tiers", "decoding", "temperature", "seed"} <= set(names)


def test_a_bare_name_means_the_technique_chosen_beside_it_or_its_owner() -> None:
    assert Settings().with_(draft="auto").decoding.name() == "draft_model"
    assert Settings().with_({"decoding.draft": "auto"}).decoding.name() == "draft_model"
    both = {"draft": "auto", "decoding": "optimal_tree"}
    for changes in (both, dict(reversed(both.items()))):
        assert Settings().with_(changes).decoding.name() == "optimal_tree"
    tree = Settings().with_(decoding="optimal_tree")
    assert tree.with_(draft="auto").decoding.name() == "optimal_tree"
