"""What the browser may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.apps.policy import NEVER, Policy
from workbench.errors import SettingsError
from workbench.settings import Settings


@pytest.mark.parametrize("path", NEVER)
def test_code_from_a_checkpoint_is_never_allowed(path: str) -> None:
    with pytest.raises(SettingsError, match="runs code from a checkpoint"):
        Policy().check(Settings().with_({path: True}))


def test_folders_outside_the_list_are_refused_links_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "models", tmp_path / "secret"
    (inside / "m").mkdir(parents=True)
    (outside / "m").mkdir(parents=True)
    (inside / "link").symlink_to(outside / "m")
    policy = Policy(folders=(inside,))
    policy.check_place("model.source", str(inside / "m"))
    for bad in (str(outside / "m"), str(inside / "link"), f"{inside}/../secret/m", "/etc/passwd",
                "~/x", "org/name", "\0"):
        with pytest.raises(SettingsError, match="not open to the browser"):
            policy.check_place("model.source", bad)


def test_hub_ids_only_where_the_operator_allows_them() -> None:
    Policy(hub=True).check_place("model.source", "org/name")
    with pytest.raises(SettingsError):
        Policy(hub=True).check_place("model.source", "/etc/passwd")


def test_a_draft_is_a_model_too() -> None:
    with pytest.raises(SettingsError, match=r"decoding\.draft"):
        Policy().check(Settings().with_({"draft": "/etc"}))
    Policy().check(Settings().with_({"draft": "auto"}))


def test_sizes_are_bounded() -> None:
    policy = Policy(max_new_tokens=100, max_batch=2, max_prompt_characters=5, max_waiting=1)
    with pytest.raises(SettingsError, match="at most 100"):
        policy.check(Settings().with_(max_new_tokens=101))
    with pytest.raises(SettingsError, match="at most 2"):
        policy.check(Settings().with_({"max_new_tokens": 8, "batch": 3}))
    with pytest.raises(SettingsError, match="at most 5"):
        policy.check_prompt("123456")
    with pytest.raises(SettingsError, match="waiting already"):
        policy.check_waiting(1)


def test_models_lists_what_lies_in_the_folders(tiny_config: Path) -> None:
    assert str(tiny_config.parent) in Policy(folders=(tiny_config.parent,)).models()
    assert Policy().models()[0] == "bundled"


def test_mixtures_list_techniques_and_no_files(tmp_path: Path) -> None:
    """What a mixture offers are schemes; a scheme's own text may still be a file, however deep it is."""
    policy = Policy()
    policy.check(Settings().with_({"weights": "mixed"}))
    policy.check(Settings().with_({"weights": "mixed", "weights.plan": "int4/group=64",
                                   "weights.raised": "layers.0:int8 layers.1.mlp.down_proj:gptq/bits=3"}))
    policy.check(Settings().with_({"decoding": "easyspec"}))
    secret = tmp_path / "secret.txt"
    for bad in ({"weights.methods": f"int8 gptq/text={secret}"}, {"weights.plan": f"gptq/text={secret}"},
                {"weights.raised": f"layers.0:sparse/text={secret}"}, {"weights.plan": str(secret)},
                {"weights.methods": f"mixed/plan={secret}"}, {"weights.methods": str(secret)}):
        with pytest.raises(SettingsError):
            policy.check(Settings().with_({"weights": "mixed", **bad}))
