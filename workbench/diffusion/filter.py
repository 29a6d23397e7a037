"""Learn2PD's filter: an MLP from a canvas' confidences to which predictions are final.

Bao et al. 2025, arXiv:2509.25188, section 3.2. Trained on the model's own static runs: at every state of a
run the label of a place is whether its present prediction is what the run ended with.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from workbench.errors import ModelError

if TYPE_CHECKING:
    from workbench.diffusion.model import DiffusionModel


class Filter(nn.Module):
    """[L] confidences, 0 where nothing is open -> [L] probabilities."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(places, places), nn.ReLU(), nn.Linear(places, places))

    def forward(self, confidence: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.layers(confidence))

    @classmethod
    def load(cls, file: Path) -> Filter:
        from safetensors.torch import load_file

        if not file.is_file():
            raise ModelError(f"{file.parent.name} has no trained filter; learn2pd needs one: "
                             "`python -m workbench.diffusion.filter NAME`")
        state = load_file(file)
        found = cls(state["layers.0.weight"].shape[0])
        found.load_state_dict(state)
        return found.eval()


def traces(model: DiffusionModel, examples: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences [N, L] (0 where committed) and labels [N, L] of static runs; labels are -1 where
    nothing is open. ``start``: number of the first example."""
    from workbench.techniques.decoding._diffusion import top
    from workbench.zoo import list_tasks as tasks

    inputs, labels = [], []
    for i in range(start, start + examples):
        found = tasks.example(tasks.TASKS[i % len(tasks.TASKS)], i)
        prompt = model.rows(model.encode(" ".join(found.prompt)), model.canvas)
        canvas = torch.full((model.canvas,), model.mask)
        states, guesses = [], []
        with torch.inference_mode():
            for _ in range(model.canvas):
                open_ = canvas == model.mask
                confidence, tokens = model.logits(prompt, canvas[None])[0].softmax(-1).max(-1)
                states.append(confidence.masked_fill(~open_, 0.0))
                guesses.append(torch.where(open_, tokens, -1))
                chosen = top(confidence, open_, 1)
                canvas = torch.where(chosen, tokens, canvas)
        inputs += states
        labels += [torch.where(g < 0, -1, (g == canvas).long()) for g in guesses]
    return torch.stack(inputs), torch.stack(labels)


def train(confidences: torch.Tensor, labels: torch.Tensor, steps: int = 1500, seed: int = 0
          ) -> Filter:
    """Binary cross entropy over the open places; seconds."""
    torch.manual_seed(seed)
    found = Filter(confidences.shape[1])
    stepper = torch.optim.AdamW(found.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(len(confidences), (256,))
        wanted = labels[rows]
        loss = nn.functional.binary_cross_entropy(
            found(confidences[rows])[wanted >= 0], wanted[wanted >= 0].float())
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    return found.eval()


def main() -> None:
    """``python -m workbench.diffusion.filter wb-dlm``: trace, train, write beside the model."""
    import sys

    from safetensors.torch import save_file

    from workbench.diffusion.model import open_model

    model = open_model(sys.argv[1] if len(sys.argv) > 1 else "wb-dlm")
    assert model.folder is not None
    inputs, labels = traces(model, 400, 500_000)
    save_file({k: v.contiguous() for k, v in train(inputs, labels).state_dict().items()},
              model.folder / "learn2pd.safetensors")


if __name__ == "__main__":
    main()
