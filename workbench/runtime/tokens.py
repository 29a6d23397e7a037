"""The tokenizer that belongs to a model, or a plain byte tokenizer where the config brings none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.errors import ModelError

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


def tokenizer_for(folder: Path, vocab: int, random: bool, trust: bool) -> tuple[Any, str]:
    """(tokenizer, what it is in words). Raises ModelError when a checkpoint has none.

    A model filled with random numbers gets the config's own tokenizer when it lies beside it, the
    bundled one when its vocabulary fits exactly, else bytes: every id has a text of its own."""
    if any((folder / name).is_file() for name in _FILES):
        return _read(folder, trust), "the model's own"
    if not random:
        raise ModelError(f"{folder} has no tokenizer (tokenizer.json); copy it from where the model "
                         "came from")
    bundled = _bundled(vocab)
    if bundled is not None:
        return bundled, "the bundled one (the config brings none and the vocabulary fits)"
    return byte_tokenizer(vocab), "bytes (the config brings none)"


def _read(folder: Path, trust: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ModelError(f"the tokenizer in {folder} cannot be read ({reason}); copy or download it "
                         "again") from None


def _bundled(vocab: int) -> Any:
    from workbench import zoo

    try:
        folder = Path(zoo.path(zoo.DEFAULT))
    except Exception:  # an installation without the bundled weights still opens random models
        return None
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = _read(folder, False)
    return tokenizer if len(tokenizer) == vocab else None


def byte_tokenizer(vocab: int) -> Any:
    """Ids 0..255 are bytes, every other id is shown as ``<id>``; below 256 bytes wrap around.

    A real fast tokenizer, so that streaming and decoding work as with any model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    table = {c: i for i, c in enumerate(letters[:vocab])}
    table.update({f"<{i}>": i for i in range(len(table), vocab)})
    core = Tokenizer(models.BPE(vocab=table, merges=[], unk_token=letters[0]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)
