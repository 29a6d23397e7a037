"""From a name to a folder that opens: pruned, sliced, sparsified; what cannot be leaves nothing behind."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from workbench.cli.models import command
from workbench.errors import SettingsError
from workbench.runtime import load
from workbench.settings import Settings
from workbench.structure import recovery, service
from workbench.structure.shrinking import Target

TEXT = service.Text(8, 96)
SHORT = recovery.Recovery(steps=4, batch=2)


def tokens_of(folder, **changes) -> list[int]:
    """Greedy tokens of the folder through the workbench's own loop."""
    settings = Settings().with_({"model": str(folder), "limits.max_new_tokens": 8, "compute.threads": 1,
                                 **changes})
    model = load(settings, lambda event: None, lambda: False)
    try:
        out = model.generate(["def f("], settings, lambda event: None, lambda: False)
        return list(out.tokens[0])
    finally:
        model.close()


def test_prune_writes_an_ordinary_model_and_distilling_helps(tmp_path) -> None:
    made = service.prune("wb-1m", tmp_path / "p", Target(ffn=128), recovery.Recovery(steps=25, batch=2), TEXT)
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["intermediate_size"] == 128
    assert made["parameters"] < made["parameters_before"]
    assert made["loss_before"] < made["loss"]
    assert made["kl"] < made["kl_cut"]
    assert len(tokens_of(tmp_path / "p")) == 8


def test_slice_writes_a_folder_that_opens(tmp_path) -> None:
    made = service.slice_folder("wb-1m", tmp_path / "s", 0.25, TEXT)
    assert made["width"] == 0.75 * made["whole"]
    assert len(tokens_of(tmp_path / "s")) == 8


def test_sparsify_keeps_its_zeros_and_magnitude_keeps_its_numbers(tmp_path) -> None:
    from safetensors.torch import load_file

    made = service.sparse_tune("wb-1m", tmp_path / "z", 0.6, SHORT, TEXT)
    weights = load_file(tmp_path / "z" / "model.safetensors")
    matrices = [w for n, w in weights.items() if n.endswith("_proj.weight")]
    assert matrices
    assert all(int((w == 0).sum()) >= round(0.6 * w.numel()) for w in matrices)
    assert made["distil_steps"] == 4
    dense, sparse = (tokens_of(tmp_path / "z", weights=w) for w in
                     ("bf16", "sparse(method=magnitude,sparsity=0.6)"))
    assert dense == sparse


@pytest.mark.parametrize(("arguments", "said"), [
    (["prune", "wb-1m", "OUT", "--depth", "9"], "depth 9"),
    (["prune", "wb-1m", "OUT", "--ffn", "100"], "ffn 100"),
    (["slice", "wb-1m", "OUT", "--share", "1.5"], "out of range"),
    (["sparsify", "wb-1m", "OUT", "--sparsity", "1"], "out of range"),
    (["slice", "nowhere-at-all", "OUT", "--share", "0.1"], "nowhere-at-all"),
    (["prune", "wb-1m", "OUT"], "nothing to prune"),
    (["prune", "wb-1m", "OUT", "--depth", "1", "--text", "/nothing/here.txt"], "cannot be read")])
def test_what_cannot_be_is_one_sentence_and_writes_nothing(arguments, said: str, tmp_path) -> None:
    from workbench.errors import WorkbenchError

    out = tmp_path / "out"
    found = CliRunner().invoke(command, [a.replace("OUT", str(out)) for a in arguments])
    assert isinstance(found.exception, WorkbenchError)
    assert said in str(found.exception)
    assert not out.exists()
    assert not list(tmp_path.iterdir())


def test_the_command_line_prints_its_facts(tmp_path) -> None:
    found = CliRunner().invoke(command, ["prune", "wb-1m", str(tmp_path / "p"), "--depth", "1",
                                         "--distil-steps", "0", "--samples", "8", "--length", "64", "--json"])
    assert found.exit_code == 0, found.output
    facts = json.loads(found.stdout)
    assert facts["layers"] in ([0], [1])
    with pytest.raises(SettingsError, match="not empty"):
        service.prune("wb-1m", tmp_path / "p", Target(1), SHORT, TEXT)
