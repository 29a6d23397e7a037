"""The parts of the settings that are not techniques."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.techniques.base import Controlled, control


@dataclass(frozen=True)
class Model(Controlled):
    """Which model, and what opening it may do."""

    source: str = control("bundled", help="bundled, a hub id like org/name, a folder, a config.json")
    weights: str = control("checkpoint", choices=("checkpoint", "random"),
                           help="read the checkpoint, or fill the shape with random numbers")
    allow_pickle: bool = control(False, help="load .bin files, which can run code")
    trust_remote_code: bool = control(False, help="run Python that the checkpoint brings")


@dataclass(frozen=True)
class Sampling(Controlled):
    """How a token is chosen from the target's distribution. Temperature 0 is greedy."""

    temperature: float = control(0.0, 0.0, 10.0, soft=(0.0, 2.0), step=0.05,
                                 help="0 is greedy; 1 is the model's own distribution")
    top_k: int = control(0, 0, 1_000_000, soft=(0, 100), help="keep the k likeliest; 0 keeps all")
    top_p: float = control(1.0, 0.01, 1.0, step=0.01, help="keep this much probability")


@dataclass(frozen=True)
class Limits(Controlled):
    """How much to generate."""

    max_new_tokens: int = control(128, 1, 1_000_000, soft=(16, 512), unit="tokens",
                                  help="stop after this many new tokens")
    batch: int = control(1, 1, 256, soft=(1, 16), help="sequences generated side by side")
    stop_at_eos: bool = control(True, help="stop when the model ends its text")


@dataclass(frozen=True)
class Compute(Controlled):
    """Where to compute."""

    device: str = control("auto", help="auto, cpu, cuda or cuda:1")
    threads: int = control(0, 0, 1024, soft=(0, 16), help="CPU threads; 0 chooses")


@dataclass(frozen=True)
class Telemetry(Controlled):
    """What is watched while the model runs."""

    preset: str = control("light", choices=("off", "light", "kernels", "deep"),
                          help="light: short kernel windows now and then; deep: every step, capped")
    power: bool = control(True, help="read power sensors")


@dataclass(frozen=True)
class Quality(Controlled):
    """Whether a run also measures quality against the untouched model."""

    level: str = control("off", choices=("off", "quick", "full"),
                         help="perplexity, KL and top-1 agreement after the run")
