"""Layer streaming: some layers stay on the compute device, the others come just in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.tiers import Tiers

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine
    from workbench.settings import Settings
    from workbench.shape import ModelShape


@dataclass(frozen=True)
class Stream(Tiers):
    """Layers are read from RAM or disk into a few slots while others compute: less memory, same text.

    On a GPU machine the slots are GPU memory and the source is pinned RAM or disk; without a GPU the
    slots are RAM and the source is disk. Layers travel as they are packed (int4 as int4 bytes)."""

    title = "layer streaming"
    paper = Paper("2207.00032", "Aminabadi et al. 2022 (DeepSpeed Inference)",
                  "section 5, ZeRO-Inference; also Superpipeline, arXiv:2410.08791")
    claim = Claim("25x larger models than GPU memory holds; over half of peak throughput",
                  setup="A6000, large batches, weights in DRAM or NVMe")
    resident: int = control(0, 0, 1000, soft=(0, 48), unit="layers",
                            help="layers that stay on the compute device, spread evenly")
    source: str = control("auto", choices=("auto", "ram", "disk"),
                          help="where the others wait; auto: RAM for a GPU, disk for a CPU")
    window: int = control(2, 1, 64, soft=(1, 8), unit="slots",
                          help="layers held on the compute device at a time, besides resident ones")
    prefetch: int = control(1, 0, 63, soft=(0, 7), unit="layers",
                            help="layers fetched ahead; less than the window")
    overlap: bool = control(True, help="fetch while computing; off: compute waits for every fetch")
    page_cache: bool = control(False, help="let the OS cache the file: faster, but the disk tier is "
                                           "then partly RAM")

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        if self.resident > shape.layers:
            return (f"tiers.resident={self.resident} is more than the model's {shape.layers} layers; "
                    f"choose 0 to {shape.layers}")
        if self.source == "ram" and not machine.gpus:
            return ("tiers.source=ram needs a GPU: without one the layers compute in RAM already; "
                    "choose disk")
        return None

    def refuses(self, settings: Settings) -> str | None:
        if self.prefetch >= self.window:
            return (f"tiers.prefetch={self.prefetch} needs tiers.window of at least "
                    f"{self.prefetch + 1}: a layer is fetched into a slot of its own")
        if self.source == "ram" and settings.compute.device == "cpu":
            return ("tiers.source=ram needs compute.device=cuda: on the CPU the layers compute in RAM "
                    "already; choose disk")
        return None

    def resident_layers(self, layers: int) -> set[int]:
        """Which layers stay: evenly spread, so that fetching overlaps with computing them too."""
        keep = min(self.resident, layers)
        return {int((i + 0.5) * layers / keep) for i in range(keep)}

    def source_tier(self, device: str) -> str:
        """``ram`` or ``disk``."""
        if self.source != "auto":
            return self.source
        return "ram" if device.startswith("cuda") else "disk"

    def placement(self, layers: int, machine: Machine, device: str) -> list[str]:
        compute = "gpu" if device.startswith("cuda") else "ram"
        stays = self.resident_layers(layers)
        return [compute if i in stays else self.source_tier(device) for i in range(layers)]

    def parking(self, layers: int, device: torch.device) -> Any:
        from workbench.runtime.parking import FileStore, HostStore, Parking

        tier = self.source_tier(str(device))
        store = FileStore(self.page_cache) if tier == "disk" else HostStore()
        return Parking(store, self.resident_layers(layers))

    def start(self, runtime: Any) -> Any:
        from workbench.runtime.guard import layers_of
        from workbench.runtime.streamer import Streamer

        model = runtime.loaded.model
        return Streamer(model, layers_of(model), runtime.loaded.parked, runtime.device,
                        window=self.window, prefetch=self.prefetch, overlap=self.overlap)
