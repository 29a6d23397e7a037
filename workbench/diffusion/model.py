"""A masked-diffusion model: an ordinary transformers checkpoint run without a causal mask.

Its ``config.json`` carries ``masked_diffusion`` with the mask token and the canvas it was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from workbench.errors import ModelError, SettingsError


class DiffusionModel:
    """A network whose attention takes additive masks, its tokenizer, and the folder of its learnt parts.

    Make one with :func:`open_model`, or around a model that is loaded already (packed weights too)."""

    def __init__(self, model: Any, tokenizer: Any, folder: Path | None = None) -> None:
        facts = model.config.masked_diffusion
        self.mask, self.canvas = int(facts["mask_token_id"]), int(facts["canvas"])
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self.dtype = next(model.parameters()).dtype
        self.device = next(model.parameters()).device
        self.eos, self.pad = int(self.model.config.eos_token_id), int(self.model.config.pad_token_id)
        self._filter: Callable[[torch.Tensor], torch.Tensor] | None = None

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt, words apart by spaces. Raises SettingsError for a word it does not know."""
        known = self.tokenizer.get_vocab()
        unknown = [w for w in prompt.split() if w not in known]
        if unknown:
            raise SettingsError(f"this model does not know the word {unknown[0]!r}; it knows {len(known)} "
                                "words and list tasks like 'sort tiger apple ='")
        if not prompt.split():
            raise SettingsError("the prompt is empty; write a task like 'sort tiger apple ='")
        return [known[w] for w in prompt.split()]

    def decode(self, tokens: list[int]) -> str:
        """Words of a text."""
        return " ".join(self.tokenizer.convert_ids_to_tokens(tokens))

    def rows(self, prompt: list[int], canvas: int) -> torch.Tensor:
        """The prompt's ids int64 [1, P], padded at the left to the length it was trained with."""
        from workbench.zoo.list_tasks import PROMPT

        limit = self.model.config.max_position_embeddings
        if max(PROMPT, len(prompt)) + canvas > limit:
            raise SettingsError(f"{len(prompt)} prompt tokens and a canvas of {canvas} exceed the "
                                f"model's {limit} positions; shorten one of them")
        padded = [self.pad] * (PROMPT - len(prompt)) + prompt
        return torch.tensor([padded], device=self.device)

    def logits(self, prompt: torch.Tensor, canvases: torch.Tensor) -> torch.Tensor:
        """``prompt`` int64 [1, P], ``canvases`` [n, L] -> float32 [n, L, V], the mask at -inf."""
        n, length = canvases.shape
        rows = torch.cat([prompt.expand(n, -1), canvases], 1)
        hidden = (rows == self.pad)[:, None, None].expand(-1, 1, rows.shape[1], -1)
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=rows.device)
        out = self.model(rows, attention_mask=mask.masked_fill_(hidden, float("-inf")),
                         use_cache=False, logits_to_keep=length).logits.float()
        out[..., self.mask] = float("-inf")
        out[..., self.pad] = float("-inf")
        return out

    def filter(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Learn2PD's filter for this model and canvas. Raises ModelError when it was not trained."""
        from workbench.diffusion.filter import Filter

        if self._filter is None:
            if self.folder is None:
                raise ModelError("this model has no folder, so no trained filter; use another decoding")
            self._filter = Filter.load(self.folder / "learn2pd.safetensors").to(self.device)
        return self._filter


def open_model(source: str | Path = "wb-dlm") -> DiffusionModel:
    """A bundled model's name or a folder. Raises ModelError when it is no masked-diffusion model."""
    from workbench import zoo

    name = zoo.DEFAULT if source == "bundled" else str(source)
    folder = Path(zoo.path(name)) if name in zoo.names() else Path(source)
    _facts(folder)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True).eval()
    return DiffusionModel(model, AutoTokenizer.from_pretrained(folder, local_files_only=True), folder)


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"there is no model in {folder}; name a bundled diffusion model or a folder "
                         "with a config.json")
    found = json.loads(file.read_text("utf-8")).get("masked_diffusion")
    if not found:
        raise ModelError(f"{folder.name} is not a masked-diffusion model: its config.json has no "
                         "masked_diffusion; open it with wb.open instead")
    return dict(found)
