"""The committed models: present, small enough, loadable, and what their gates file says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from workbench import zoo
from workbench.errors import ModelError

MIB = 2**20


def test_importing_the_zoo_does_not_import_torch() -> None:
    code = ("import sys; from workbench import zoo; zoo.names(); zoo.prompts(); "
            "zoo.evaluation_text(); sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_and_draft() -> None:
    assert zoo.names()[0] == zoo.DEFAULT == "wb-14m"
    assert zoo.draft_for("wb-14m") == "wb-1m"
    assert zoo.draft_for("wb-1m") is None
    with pytest.raises(ModelError, match="there are: wb-14m, wb-1m"):
        zoo.path("wb-14")


def test_all_weights_together_are_at_most_40_mib() -> None:
    sizes = [f.stat().st_size for name in zoo.names() for f in zoo.path(name).iterdir()]
    assert sum(sizes) <= 40 * MIB


def test_target_and_draft_share_the_tokenizer() -> None:
    files = [(zoo.path(name) / "tokenizer.json").read_bytes() for name in ("wb-14m", "wb-1m")]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["wb-14m", "wb-1m"])
def test_gates_file_belongs_to_the_weights(name: str) -> None:
    """Recompute one committed perplexity: other weights under the same file would be noticed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workbench.zoo import gates

    model = AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(zoo.path(name))
    committed = zoo.card(name)["gates"]["perplexity"]["eval:code"]
    again = gates.perplexity(model, tokenizer, [d.text for d in zoo.evaluation_text("code")])
    assert again.tokens == committed["tokens"]
    assert again.value == pytest.approx(committed["value"], rel=0.005)
    assert committed["trigram"] > again.value


@pytest.mark.parametrize("name", ["wb-14m", "wb-1m"])
def test_card_and_manifest(name: str) -> None:
    card = zoo.card(name)
    assert card["gates"]["gates"], "no gate was measured"
    for row in card["gates"]["gates"].values():
        assert row["reached"] == (row["value"] >= row["bound"])
    assert card["final"]["tokens"] > 1_000_000
    assert all(len(facts["sha256"]) == 64 for facts in card["data"].values())
    assert card["readme"].startswith(f"# {name}")
    log = (zoo.path(name) / "training_log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in log]
    assert rows[-1] == card["final"]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_prompts() -> None:
    prompts = zoo.prompts()
    assert {p.kind for p in prompts} == {"code", "math", "prose", "edit", "list", "chat"}
    assert len({p.id for p in prompts}) == len(prompts)
    assert all(len(zoo.prompts(kind)) >= 4 for kind in {p.kind for p in prompts})
    with pytest.raises(ModelError, match="there are: chat, code"):
        zoo.prompts("poetry")


def test_evaluation_text() -> None:
    documents = zoo.evaluation_text()
    assert {d.kind for d in documents} == {"prose", "technical", "code", "math", "dialogue"}
    assert 20_000 < sum(len(d.text) for d in documents) < 40_000
    assert all(d.text.endswith("\n") and d.source for d in documents)
    with_library = zoo.evaluation_text("code", stdlib=True)
    assert len(with_library) > len(zoo.evaluation_text("code"))
    for document in zoo.evaluation_text("code"):
        compile(document.text, document.id, "exec")


def test_evaluation_arithmetic_is_right() -> None:
    """Every 'a * b = c' in the word problems holds."""
    import re

    [document] = zoo.evaluation_text("math")
    steps = re.findall(r"(\d[\d+*/ -]*) = \$?(\d+)", document.text)
    assert len(steps) > 25
    for expression, result in steps:
        numbers = re.fullmatch(r"[\d+*/ -]+", expression)
        assert numbers
        assert eval(expression) == int(result), expression
