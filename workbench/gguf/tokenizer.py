"""A tokenizer.json as a GGUF vocabulary, and back.

Byte-level BPE (GPT-2, Llama 3, Qwen) is written in llama.cpp's terms; of any tokenizer the whole
tokenizer.json is kept too (``tokenizer.huggingface.json``, a key of the format), so that reading gives
back exactly what was written. How llama.cpp cuts a text into words is chosen by name
(``tokenizer.ggml.pre``), from the rule that the tokenizer states.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError

if TYPE_CHECKING:
    from workbench.gguf.read import File

NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5
_DIGITS = {"type": "Digits", "individual_digits": True}
_LLAMA3 = r"\p{N}{1,3}"
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"


def write(writer: Any, folder: Path, config: dict[str, Any]) -> str:
    """Add the vocabulary; returns what a reader should know, or ""."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        writer.add_tokenizer_model("none")
        return "the model has no tokenizer.json, so the file has no vocabulary: token ids only"
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    writer.add_string("tokenizer.huggingface.json", text)
    if not _byte_level(data):
        writer.add_tokenizer_model("none")
        return ("the tokenizer is not a byte-level BPE, so llama.cpp sees token ids only; the "
                "workbench reads its tokenizer.json back from the file")
    rule, sure = _rule(data)
    _vocabulary(writer, data, int(config["vocab_size"]))
    writer.add_tokenizer_pre(rule)
    _special(writer, path, config)
    return "" if sure else ("llama.cpp knows no name for how this tokenizer cuts text into words; its "
                            "default rule may cut some texts otherwise")


def _byte_level(data: dict[str, Any]) -> bool:
    model = data.get("model", {})
    return (model.get("type") == "BPE" and not model.get("byte_fallback")
            and '"ByteLevel"' in json.dumps(data.get("pre_tokenizer")))


def _rule(data: dict[str, Any]) -> tuple[str, bool]:
    """(llama.cpp's name of the splitting rule, whether it is known to be the same)."""
    pre = data["pre_tokenizer"]
    parts = pre.get("pretokenizers", [pre])
    regex = json.dumps([p.get("pattern") for p in parts])
    if parts[0] == _DIGITS and len(parts) == 2 and parts[1].get("use_regex", True):
        return "smollm", True
    if len(parts) == 1 and parts[0].get("use_regex", True):
        return "gpt-2", True
    if json.dumps(_QWEN2)[1:-1] in regex:
        return "qwen2", True
    if json.dumps(_LLAMA3)[1:-1] in regex:
        return "llama-bpe", True
    return "default", False


def _vocabulary(writer: Any, data: dict[str, Any], size: int) -> None:
    model = data["model"]
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [UNUSED] * size
    for token, index in model["vocab"].items():
        if index < size:
            tokens[index], kinds[index] = token, NORMAL
    for added in data.get("added_tokens", []):
        if added["id"] < size:
            tokens[added["id"]] = added["content"]
            kinds[added["id"]] = CONTROL if added["special"] else USER
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
    if merges:
        writer.add_token_merges(merges)
    else:  # the format wants the list; a pair of tokens that are in the vocabulary never hurts
        writer.add_token_merges([f"{tokens[0]} {tokens[0]}"])


def _special(writer: Any, path: Path, config: dict[str, Any]) -> None:
    from tokenizers import Tokenizer

    for name, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id),
                      ("pad", writer.add_pad_token_id)):
        value = config.get(f"{name}_token_id")
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            add(value)
    ids = Tokenizer.from_file(str(path)).encode("a").ids
    writer.add_add_bos_token(bool(ids) and ids[0] == config.get("bos_token_id"))


def restore(file: File, folder: Path) -> None:
    """Write the tokenizer files that transformers reads into ``folder``. Raises ModelError."""
    text = file.fields.get("tokenizer.huggingface.json")
    if isinstance(text, str):
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        return
    model = file.fields.get("tokenizer.ggml.model")
    if model in (None, "none"):
        return
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(file.path.parent), gguf_file=file.path.name,
                                                  local_files_only=True)
        _restore_rule(tokenizer, str(file.fields.get("tokenizer.ggml.pre", "")))
        tokenizer.save_pretrained(folder)
    except Exception as error:
        raise ModelError(f"the tokenizer ({model}) in {file.path} cannot be read "
                         f"({type(error).__name__}: {str(error)[:100]}); put the model's "
                         "tokenizer.json beside a safetensors copy and open that") from None


def _restore_rule(tokenizer: Any, rule: str) -> None:
    """transformers gives every byte-level BPE GPT-2's splitting; digits one by one are put back."""
    if rule in ("smollm", "starcoder", "refact", "command-r"):
        from tokenizers import pre_tokenizers

        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False)])
