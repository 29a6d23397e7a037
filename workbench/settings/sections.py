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
    graphs: str = control("auto", choices=("auto", "off"),
                          help="on a GPU, steps as CUDA graphs: one launch for all kernels of a step")


@dataclass(frozen=True)
class Telemetry(Controlled):
    """What is watched while the model runs."""

    preset: str = control("light", choices=("off", "light", "kernels", "deep"),
                          help="light: short kernel windows now and then; deep: every step, capped")
    interval_s: float = control(0.0, 0.0, 600.0, soft=(0.0, 10.0), unit="s",
                                help="seconds between kernel windows; 0: as often as the preset's budget "
                                     "allows")
    window_steps: int = control(1, 1, 64, soft=(1, 8), unit="forwards",
                                help="forwards that one kernel window looks at, one after another")
    cap_mb: float = control(32.0, 0.1, 4096.0, soft=(1.0, 256.0), unit="MB",
                            help="the most that a run's kernel records may take; a deep capture says "
                                 "beforehand what it will")
    stacks: bool = control(True, help="look fifty times a second which function the loop is in")
    power: bool = control(True, help="read power sensors")
    subtract_idle: bool = control(False, help="lead with the energy above idle power; the whole "
                                              "energy is kept beside it")
    idle_s: float = control(0.0, 0.0, 120.0, soft=(0.0, 10.0), unit="s",
                            help="measure idle power this long before the run; 0 uses what `workbench "
                                 "power idle` measured")
    estimate_cpu_power: bool = control(False, help="where no CPU counter can be read, estimate its "
                                                   "power from its rated watts and load, labelled")
    cpu_watts: float = control(0.0, 0.0, 2000.0, soft=(0.0, 500.0), unit="W",
                               help="rated power (TDP) of the whole processor, for the estimate; 0: "
                                    "from the catalogue")
    grid_g_per_kwh: float = control(445.0, 0.0, 2000.0, soft=(0.0, 1000.0), unit="g CO2/kWh",
                                    help="carbon intensity of your electricity; 445 is the world's "
                                         "mean in 2024 (IEA, Electricity 2025)")
    price_per_kwh: float = control(0.13, 0.0, 10.0, soft=(0.0, 1.0), unit="currency/kWh",
                                   help="price of your electricity; 0.13 USD is about the mean over "
                                        "all US sectors in 2024 (EIA, Electric Power Monthly, 5.6.B)")


@dataclass(frozen=True)
class Quality(Controlled):
    """Whether a run also measures quality against the untouched model."""

    level: str = control("off", choices=("off", "quick", "full"),
                         help="perplexity, KL and top-1 agreement after the run")
