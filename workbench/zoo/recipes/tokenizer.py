"""The shared tokenizer: byte-level BPE of 4096 tokens, trained on a sample of the corpus.

Digits are single tokens, which makes arithmetic learnable (Nogueira et al. 2021, arXiv:2102.13019).
There is no prefix space and no clean-up, so every UTF-8 text survives encode and decode exactly.
`pack` turns documents into one stream of uint16 tokens: bos, document, eos, bos, ...
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCAB = 4096
PAD, BOS, EOS = 0, 1, 2
SPECIALS = ("<pad>", "<bos>", "<eos>", "<mask>", "<sep>", *(f"<task{i}>" for i in range(16)),
            "<think>", "</think>", *(f"<spare{i}>" for i in range(8)))

#: Characters of each domain that the tokenizer is trained on.
SAMPLE = {"code": 4e6, "books": 4e6, "gsm": 2e6, "docs": 4e5, "other": 8e5, "gen": 1.5e6}


def sample(domains: dict[str, list[str]], scale: float = 1.0) -> list[str]:
    """Shuffled documents of each domain, at most 20 000 characters each, up to `SAMPLE`."""
    r = random.Random(0)
    texts = []
    for name, limit in SAMPLE.items():
        if name not in domains:
            continue
        documents = domains[name][:]
        r.shuffle(documents)
        characters = 0
        for document in documents:
            texts.append(document[:20_000])
            characters += len(texts[-1])
            if characters > limit * scale:
                break
    return texts


def train(texts: list[str], vocab: int = VOCAB) -> Tokenizer:
    """Byte-level BPE with the special tokens first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(SPECIALS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that ``AutoTokenizer.from_pretrained(folder)`` reads."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        mask_token="<mask>", sep_token="<sep>", clean_up_tokenization_spaces=False,
        model_max_length=2048).save_pretrained(folder)
    # Version 5 of transformers writes a class name that version 4 does not know; this one both know.
    file = folder / "tokenizer_config.json"
    config = {**json.loads(file.read_text("utf-8")), "tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a folder written by `save`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def pack(tokenizer: Tokenizer, documents: list[str], seed: int = 7) -> np.ndarray:
    """documents, shuffled -> uint16 [tokens]: bos, tokens, eos of each."""
    documents = documents[:]
    random.Random(seed).shuffle(documents)
    tokens: list[int] = []
    for i in range(0, len(documents), 256):
        for encoding in tokenizer.encode_batch(documents[i:i + 256]):
            tokens += [BOS, *encoding.ids, EOS]
    return np.array(tokens, np.uint16)
