"""What loading asks of a mixture: the plan's scheme for each matrix, calibrated codes where it has some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError, SettingsError
from workbench.sensitivity import plan as plans
from workbench.techniques.base import family
from workbench.techniques.weights import Calibrated, Weights

if TYPE_CHECKING:
    import torch

    from workbench.events import Event
    from workbench.runtime.packed import Packed
    from workbench.settings import Settings
    from workbench.techniques.weights.mixed import Mixed

Emit = Callable[[Any], None]


class Mixture:
    """A plan in use. The same methods as :class:`workbench.calibration.prepared.Prepared`, and ``method``."""

    def __init__(self, plan: plans.Plan, settings: Settings, emit: Callable[[Event], None],
                 cancelled: Callable[[], bool] | None) -> None:
        self.plan = plan
        self._methods = {name: plans.scheme(name) for name in plan.counts()}
        self._calibrated = {name: method.prepare(settings, emit, cancelled)
                            for name, method in self._methods.items() if isinstance(method, Calibrated)}

    def method(self, name: str) -> Weights | None:
        """The scheme that packs matrix ``name``; None where its codes were made before (``pack``)."""
        chosen = self._chosen(name)
        return None if chosen in self._calibrated else self._methods[chosen]

    def holds(self, name: str) -> bool:
        """Everything that is not calibrated comes from the checkpoint, so nothing is missing there."""
        return False

    def pack(self, name: str, bias: torch.Tensor | None, device: torch.device,
             shape: tuple[int, int]) -> Packed:
        codes = self._calibrated[self._chosen(name)]
        assert codes is not None
        return codes.pack(name, bias, device, shape)

    def _chosen(self, name: str) -> str:
        if name not in self.plan.choice:
            raise ModelError(f"the plan has no scheme for {name}: it was made for another model; set "
                             "plan=auto")
        return self.plan.choice[name]

    def parameters(self) -> list[str]:
        return []

    def parameter(self, name: str) -> None:
        return None

    def describe(self) -> str:
        return f"mixed precision, {self.plan.bits:.3g} bits per weight: {self.plan.describe()}"

    def close(self) -> None:
        for found in self._calibrated.values():
            if found is not None:
                found.close()


def prepare(settings: Settings, technique: Mixed, emit: Callable[[Event], None],
            cancelled: Callable[[], bool] | None) -> Mixture:
    """The plan that ``technique`` asks for, made if need be. Raises as :func:`error_map` and ``choose``."""
    return Mixture(plan_for(settings, technique, emit, cancelled), settings, emit, cancelled)


def plan_for(settings: Settings, technique: Mixed, emit: Callable[[Event], None],
             cancelled: Callable[[], bool] | None = None) -> plans.Plan:
    """From the file, or chosen under ``technique.bits``; then ``raised`` on top."""
    if technique.plan.partition("/")[0] in family("weights"):
        plan = everywhere(settings, technique.plan)
    elif technique.plan == "auto":
        from workbench.sensitivity.measure import error_map

        methods = tuple(str(plans.scheme(m)) for m in technique.methods.split() if m != plans.EXACT)
        if not methods:
            raise SettingsError("mixed needs at least one scheme beside bf16; set methods, like int8 "
                                "int4/group=64")
        found = error_map(settings, methods, emit, cancelled, tokens=technique.tokens)
        plan = plans.choose(found, bits=technique.bits)
    else:
        plan = plans.load(Path(technique.plan).expanduser())
    changes: dict[str, str] = {}
    for name, method in map(_pair, technique.raised.split()):
        changes.pop(name, None)  # what is said last counts, a layer over its matrices, too
        changes[name] = method
    return plans.raised(plan, changes) if changes else plan


def everywhere(settings: Settings, name: str) -> plans.Plan:
    """One scheme for every matrix of the decoder layers. Bytes are as stored; what it costs is not known."""
    import torch

    from workbench.runtime.guard import layers_of
    from workbench.runtime.loading import is_matrix, skeleton
    from workbench.runtime.sources import resolve

    method = plans.scheme(name)
    model = skeleton(resolve(settings.model), torch.bfloat16, settings.model.trust_remote_code)
    names = {id(m): n for n, m in model.named_modules()}
    shapes = {names[id(m)]: tuple(m.weight.shape if isinstance(m, torch.nn.Linear) else m.weight.shape[::-1])
              for layer in layers_of(model) for m in layer.modules() if is_matrix(m)}
    nbytes = sum(method.storage_bytes(r, c) for r, c in shapes.values())
    return plans.Plan(dict.fromkeys(shapes, plans.short(method)), nbytes,
                      8 * nbytes / sum(r * c for r, c in shapes.values()), None, None, {"everywhere": name})


def _pair(text: str) -> tuple[str, str]:
    name, sign, method = text.rpartition(":")
    if not sign or not name or not method:
        raise SettingsError(f"raised={text!r} is not MATRIX:SCHEME, like layers.3.mlp.down_proj:int8")
    return name, method
