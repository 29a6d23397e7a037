"""Opening a model: right numbers, small peak, and one clear sentence for everything that is wrong."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import Cancelled, ModelError, OutOfMemory, SettingsError
from workbench.events import Progress
from workbench.runtime import loading
from workbench.runtime.checkpoint import Checkpoint, read_header
from workbench.runtime.loading import choose_device, load_model
from workbench.runtime.tokens import byte_tokenizer
from workbench.settings import Settings

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 300,
         "max_position_embeddings": 128}


def quiet(event: Any) -> None:
    return None


def opened(path: Path, **changes: Any) -> Settings:
    return Settings().with_({"model.source": str(path), "compute.device": "cpu", **changes})


def save(folder: Path, kind: str, **changes: Any) -> Any:
    """A checkpoint of this architecture in ``folder``, as transformers writes it; the model."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(folder)
    byte_tokenizer(300).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, save(folder, "llama", tie_word_embeddings=False)


@pytest.fixture
def copy(llama: tuple[Path, Any], tmp_path: Path) -> Path:
    """A private copy of the checkpoint, to damage."""
    import shutil

    return Path(shutil.copytree(llama[0], tmp_path / "model"))


# -- the numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "changes"), [
    ("llama", {}), ("llama", {"tie_word_embeddings": True}), ("qwen2", {}), ("qwen3", {"head_dim": 16}),
    ("mistral", {}), ("gemma2", {"head_dim": 16}), ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
    ("gpt_neox", {}), ("mixtral", {"num_local_experts": 4})])
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str, changes: dict) -> None:
    reference = save(tmp_path, kind, **changes)
    loaded = load_model(opened(tmp_path, weights="fp32"), quiet)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(loaded.model(ids).logits, reference(ids).logits, atol=1e-5)
    assert loaded.effective["weights"].honoured
    assert not any(p.is_meta for p in loaded.model.parameters())


def test_a_tied_head_shares_the_embeddings_memory(tmp_path: Path) -> None:
    save(tmp_path, "llama", tie_word_embeddings=True)
    model = load_model(opened(tmp_path), quiet).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_head_is_reported_and_the_lookup_keeps_its_matrix(tmp_path: Path, tied: bool) -> None:
    save(tmp_path, "llama", tie_word_embeddings=tied)
    plain = load_model(opened(tmp_path, weights="int8"), quiet)
    packed = load_model(opened(tmp_path, **{"weights": "int8", "weights.head": True}), quiet)
    assert plain.effective["weights.head"].effective.startswith("bfloat16")
    assert "int8" in packed.effective["weights.head"].effective
    assert torch.equal(packed.model.model.embed_tokens.weight, plain.model.model.embed_tokens.weight)
    head, rows = Settings().with_(weights="int8").weights.storage_bytes(300, 64), 300 * 64 * 2
    assert packed.weights_bytes - plain.weights_bytes == (head if tied else head - rows)


def test_experts_that_no_method_packs_are_said_so(tmp_path: Path) -> None:
    save(tmp_path, "mixtral", num_local_experts=4)
    row = load_model(opened(tmp_path, weights="int4"), quiet).effective["weights"]
    assert not row.honoured
    assert "expert" in row.reason


def test_shards_and_other_dtypes_are_read(llama: tuple[Path, Any], tmp_path: Path) -> None:
    folder, reference = llama
    tensors = {n: t.to(torch.float16) for n, t in load_file(folder / "model.safetensors").items()}
    names, index = sorted(tensors), {}
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: tensors[n] for n in part}, tmp_path / f"part-{i}.safetensors")
        index.update(dict.fromkeys(part, f"part-{i}.safetensors"))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    model = load_model(opened(tmp_path, weights="fp32"), quiet).model
    assert torch.allclose(model.lm_head.weight, reference.lm_head.weight, atol=1e-3)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of 2 weight files, first part-1"):
        load_model(opened(tmp_path), quiet)


def test_the_reader_agrees_with_safetensors(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.arange(4),
               "empty": torch.empty(0, 4), "scalar": torch.tensor(3.0), "flag": torch.tensor([True])}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.entries) == set(tensors)
    for name, tensor in tensors.items():
        read = checkpoint.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
    checkpoint.close()


# -- random weights --------------------------------------------------------------------------------


def random_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SMALL,
                                **changes}))
    return path


def test_random_weights_are_seeded_and_of_the_right_size(tmp_path: Path) -> None:
    path = random_config(tmp_path, tie_word_embeddings=False)
    a, b, c = (load_model(opened(path, **{"model.weights": "random", "seed": s}), quiet).model
               for s in (0, 0, 1))
    first = a.model.layers[0].mlp.up_proj.weight
    assert torch.equal(first, b.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(first, c.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(first, a.model.layers[1].mlp.up_proj.weight)
    assert abs(float(first.float().std()) - 0.02) < 0.002
    assert (a.model.norm.weight == 1).all()


def test_norms_that_add_one_start_at_zero(tmp_path: Path) -> None:
    path = random_config(tmp_path, model_type="gemma", architectures=["GemmaForCausalLM"], head_dim=16)
    model = load_model(opened(path, **{"model.weights": "random"}), quiet).model
    assert (model.model.norm.weight == 0).all()


@pytest.mark.parametrize("vocab", [100, 300, 5000])
def test_without_a_tokenizer_text_becomes_bytes_and_every_id_has_a_text(tmp_path, vocab: int) -> None:
    path = random_config(tmp_path, vocab_size=vocab)
    loaded = load_model(opened(path, **{"model.weights": "random"}), quiet)
    ids = loaded.tokenizer("Hello wörld")["input_ids"]
    assert ids
    assert max(ids) < vocab
    if vocab >= 256:
        assert loaded.tokenizer.decode(ids) == "Hello wörld"
        assert loaded.tokenizer.decode([vocab - 1]) == f"<{vocab - 1}>"
    assert "bytes" in loaded.effective["model.source"].effective


# -- wrong things, one sentence each ---------------------------------------------------------------


def sentence(settings: Settings) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(settings, quiet)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_a_missing_folder_is_refused_at_once(tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub

    def never(*a: Any, **k: Any) -> Any:
        raise AssertionError("a missing folder must not ask the network")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", never)
    monkeypatch.setattr(huggingface_hub, "HfApi", never)
    begun = time.perf_counter()
    for text in (str(tmp_path / "nothing"), "./a/b", "~/no/such", "no-such-model", "a/b/c", "x.json", ""):
        assert "there is no file or folder" in sentence(Settings().with_({"model.source": text}))
    assert time.perf_counter() - begun < 3


def test_a_hub_name_offline_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = sentence(Settings().with_({"model.source": "org/model"}))
    assert "hub cache" in text
    assert "HF_HUB_OFFLINE" in text


def test_an_unreachable_hub_is_asked_once(monkeypatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked = []

    class Api:
        def model_info(self, name: str, timeout: float) -> None:
            asked.append(name)
            raise ConnectionError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    text = sentence(Settings().with_({"model.source": "org/model-that-is-not-cached"}))
    assert "hub cannot be reached (ConnectionError: no route to host)" in text
    assert len(asked) == 1


def damage_truncate(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return "it is truncated"


def damage_header(folder: Path) -> str:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8:40] = b"x" * 32
    file.write_bytes(data)
    return "its header is not the JSON table"


def damage_length(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:])
    return "its first bytes are no header"


def damage_empty(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"")
    return "empty or truncated"


def damage_missing_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    return r"no tensor 'model.layers.1.mlp.up_proj.weight' (1 of"


def damage_shape(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(5, 64)
    save_file(tensors, folder / "model.safetensors")
    return "is [5, 64] and the config asks for [96, 64]"


def damage_config(folder: Path) -> str:
    (folder / "config.json").write_text("{")
    return "is not valid JSON"


def damage_no_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "there is no config.json"


def damage_no_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "set model.weights=random"


def damage_pickle_only(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return "set model.allow_pickle=true"


def damage_no_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "has no tokenizer"


def damage_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").write_text("{}")
    return "tokenizer in"


def damage_encoder(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="bert", architectures=["BertForMaskedLM"])
    (folder / "config.json").write_text(json.dumps(config))
    return "not a decoder-only language model"


def damage_seq2seq(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True}))
    return "not a decoder-only language model"


def damage_remote_code(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="strange", auto_map={"AutoModelForCausalLM": "code.Strange"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('this code ran')")
    return "set model.trust_remote_code=true"


def damage_unknown_type(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "strange"}))
    return "does not know the model type 'strange'"


@pytest.mark.parametrize("damage", [f for n, f in sorted(globals().items()) if n.startswith("damage_")],
                         ids=lambda f: f.__name__.removeprefix("damage_"))
def test_damage_is_one_sentence(copy: Path, damage: Any) -> None:
    expected = damage(copy)
    assert expected in sentence(opened(copy))


def test_pickle_is_read_when_allowed_but_never_executed(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin")
    loaded = load_model(opened(copy, **{"model.allow_pickle": True, "weights": "fp32"}), quiet)
    assert torch.equal(loaded.model.lm_head.weight, tensors["lm_head.weight"])

    class Evil:
        def __reduce__(self) -> Any:
            return (Path(copy / "ran").write_text, ("x",))

    torch.save({"lm_head.weight": Evil()}, copy / "pytorch_model.bin")
    text = sentence(opened(copy, **{"model.allow_pickle": True}))
    assert "cannot be read as plain tensors" in text
    assert not (copy / "ran").exists()


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
def test_every_field_of_a_header_is_checked(tmp_path: Path, field: str) -> None:
    row = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    row[field] = {"dtype": "F3", "shape": [2, 3], "data_offsets": [-16, 0]}[field]
    text = json.dumps({"a": row}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
    with pytest.raises(ModelError, match="not a usable safetensors file"):
        read_header(path)


# -- device, memory, progress, cancelling ----------------------------------------------------------


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cpu:1", "cuda:x", ""])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"compute\.device"):
        choose_device(name)
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda")


def test_too_large_a_model_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = random_config(tmp_path, hidden_size=1 << 15, num_hidden_layers=100,
                         intermediate_size=1 << 17, num_attention_heads=64, num_key_value_heads=64)
    with pytest.raises(OutOfMemory, match=r"the weights need about .* is free; choose int4"):
        load_model(opened(path, **{"model.weights": "random"}), quiet)


def test_progress_reaches_the_end_and_a_cancel_leaves_nothing(llama: tuple[Path, Any]) -> None:
    events: list[Any] = []
    load_model(opened(llama[0]), events.append)
    steps = [e for e in events if isinstance(e, Progress)]
    assert steps[-1].done == steps[-1].total > 0
    assert [e.done for e in steps] == sorted(e.done for e in steps)
    calls = iter(range(1000))
    with pytest.raises(Cancelled):
        load_model(opened(llama[0]), quiet, lambda: next(calls) > 4)


PEAK = """
import gc, re, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from workbench.runtime.loading import load_model, return_freed
from workbench.settings import Settings
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
def opened(source, **more):
    return Settings().with_({"model.source": source, "model.weights": "random", **more})
changes = dict(a.split("=") for a in sys.argv[3:])
load_model(opened(sys.argv[1], **changes), lambda e: None)  # imports, allocators
gc.collect()
return_freed(torch.device("cpu"))
Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
before = status("VmRSS")
loaded = load_model(opened(sys.argv[2], **changes), lambda e: None)
print(status("VmHWM") - before, loaded.weights_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak resident set from /proc")
@pytest.mark.parametrize(("changes", "held_mib"), [
    (("weights=bf16",), 118), (("weights=int4",), 34), (("weights=int4", "tiers=stream"), 1)],
    ids=["bf16", "int4", "int4-stream"])
def test_peak_memory_is_the_packed_size_plus_a_layer(tmp_path: Path, changes, held_mib: int) -> None:
    """117 MiB of bfloat16 matrices in 8 layers; above what is kept at the end there is at most one
    matrix, its quantization's temporaries, and one packed layer: 48 MiB are allowed."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    small = random_config(tmp_path / "a")
    large = random_config(tmp_path / "b", hidden_size=768, intermediate_size=2304,
                          num_hidden_layers=8, num_attention_heads=12, num_key_value_heads=12)
    done = subprocess.run([sys.executable, "-c", PEAK, str(small), str(large), *changes],
                          capture_output=True, text=True, timeout=200)
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not let a process reset its peak resident set")
    assert done.returncode == 0, done.stderr[-1500:]
    peak, held = (int(n) / (1 << 20) for n in done.stdout.split())
    print(f"{changes}: peak +{peak:.0f} MiB, held {held:.0f} MiB")
    assert abs(held - held_mib) < 2
    assert peak <= held + 48


def test_the_module_has_no_state_of_its_own() -> None:
    """Parameters keep their memory again after the empty tree was made."""
    with loading._parameters_on_meta():
        assert torch.nn.Linear(2, 2).weight.is_meta
    assert not torch.nn.Linear(2, 2).weight.is_meta
