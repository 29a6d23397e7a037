"""The recipe of each bundled model: one frozen value with everything that decides the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from workbench.zoo.recipes.tokenizer import BOS, EOS, PAD, VOCAB

#: Share of the training windows from each domain.
MIX = {"code": 0.25, "books": 0.25, "gsm": 0.16, "gen": 0.24, "docs": 0.03, "other": 0.07}


@dataclass(frozen=True)
class Recipe:
    """Shape, data and optimisation of one model.

    ``lr_matrices`` is Muon's (2-D matrices of the blocks), ``lr_rest`` AdamW's (embeddings, norms).
    ``context`` is the training window in tokens.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    steps: int
    lr_matrices: float
    lr_rest: float
    batch: int = 8
    context: int = 512
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 1234
    data_seed: int = 0
    max_position: int = 2048
    mix: dict[str, float] = field(default_factory=lambda: dict(MIX))

    @property
    def tokens(self) -> int:
        """Training tokens."""
        return self.steps * self.batch * self.context

    def config(self) -> dict[str, Any]:
        """Arguments of ``transformers.LlamaConfig``."""
        return {
            "vocab_size": VOCAB, "hidden_size": self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.ff, "max_position_embeddings": self.max_position,
            "rope_theta": 10000.0, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
            "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        }

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


TARGET = Recipe("wb-14m", hidden=384, layers=8, heads=6, kv_heads=2, ff=1024, steps=2000,
                lr_matrices=0.02, lr_rest=2e-3)

#: The draft's first stage, cross-entropy on the corpus. The second is `workbench.zoo.recipes.distill`.
DRAFT = Recipe("wb-1m", hidden=128, layers=2, heads=4, kv_heads=2, ff=352, steps=1000,
               lr_matrices=0.02, lr_rest=3e-3)

#: Seconds instead of minutes, for the tests: same code, toy size.
TINY = Recipe("tiny", hidden=32, layers=2, heads=2, kv_heads=1, ff=64, steps=24, batch=4, context=64,
              warmup=4, lr_matrices=0.02, lr_rest=5e-3, max_position=128,
              mix={"code": 0.7, "docs": 0.1, "gen": 0.2})

RECIPES = {recipe.name: recipe for recipe in (TARGET, DRAFT, TINY)}
