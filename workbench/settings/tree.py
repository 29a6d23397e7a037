"""The settings tree, its names, its validation, its YAML, JSON and JSON schema.

A path is ``family``, ``section.control`` or ``family.control``; a control's bare name works where
only one owner has it, and naming a control of a technique that is not chosen chooses it
(``draft=auto`` chooses the draft-model decoder).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from workbench.errors import SettingsError, one_of
from workbench.settings.sections import Compute, Limits, Model, Quality, Sampling, Telemetry
from workbench.techniques.base import Control, Controlled, Technique, family, get, parse

if TYPE_CHECKING:
    from workbench.machine import Machine
    from workbench.shape import ModelShape
    from workbench.techniques.backend import Backend
    from workbench.techniques.decoding import Decoding
    from workbench.techniques.kvcache import KVCache
    from workbench.techniques.tiers import Tiers
    from workbench.techniques.weights import Weights

#: Settings field -> (family folder, the default technique).
FAMILIES = {"weights": ("weights", "bf16"), "kv": ("kvcache", "full"),
            "tiers": ("tiers", "resident"), "decoding": ("decoding", "plain"),
            "backend": ("backend", "native")}
SECTIONS: dict[str, type[Controlled]] = {
    "model": Model, "sampling": Sampling, "limits": Limits, "compute": Compute,
    "telemetry": Telemetry, "quality": Quality}
_TYPE_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _default(name: str) -> Any:
    folder, technique = FAMILIES[name]
    return field(default_factory=lambda: get(folder, technique)())


@dataclass(frozen=True)
class ControlView:
    """One knob as a view shows it. ``path`` is what ``Settings.with_`` takes.

    For a family's own entry, ``choices`` are technique names and ``unavailable`` maps the ones that
    cannot work here to the reason."""

    path: str
    label: str
    group: str
    kind: str  # "choice", "integer", "number", "boolean", "string"
    value: Any
    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    soft: tuple[float, float] | None = None
    step: float | None = None
    unit: str = ""
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """A whole configuration. Comparable; JSON and YAML round trip exactly."""

    model: Model = field(default_factory=Model)
    weights: Weights = _default("weights")
    kv: KVCache = _default("kv")
    tiers: Tiers = _default("tiers")
    decoding: Decoding = _default("decoding")
    backend: Backend = _default("backend")
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    compute: Compute = field(default_factory=Compute)
    telemetry: Telemetry = field(default_factory=Telemetry)
    quality: Quality = field(default_factory=Quality)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (folder, _) in FAMILIES.items():
            value = getattr(self, name)
            if not isinstance(value, Technique) or value.family() != folder:
                object.__setattr__(self, name, parse(folder, value))
        for name, section in SECTIONS.items():
            value = getattr(self, name)
            if isinstance(value, dict):
                object.__setattr__(self, name, section.from_dict(value))
            elif not isinstance(value, section):
                raise SettingsError(f"{name} must be a {section.__name__}, not {value!r}")
        seed = Control("seed", int, 0, "", 0, 2**63 - 1).check(self.seed, "")
        object.__setattr__(self, "seed", seed)
        self._check_combination()

    # -- changing ---------------------------------------------------------------------------

    def with_(self, changes: dict[str, Any] | None = None, **more: Any) -> Self:
        """A copy with changes by path: ``with_(weights="int4")``, ``with_({"weights.group": 64})``.

        Raises SettingsError with one sentence that names the valid ones; self is unchanged."""
        parts: dict[str, Any] = {}
        current = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        given = {**(changes or {}), **more}
        # A bare name means the control of the technique that is chosen beside it.
        current |= {path: parse(FAMILIES[path][0], value)
                    for path, value in given.items() if path in FAMILIES}
        resolved = [(self._resolve(path, current, value), value) for path, value in given.items()]
        # Techniques first: "weights.group=64 weights=int4" means the same in any order.
        for (owner, technique, knob), value in sorted(resolved, key=lambda r: r[0][2] is not None):
            now = parts.get(owner, current[owner])
            if owner == "seed":
                parts[owner] = value
            elif knob is None:
                if owner not in FAMILIES:
                    section = SECTIONS[owner]
                    parts[owner] = value if isinstance(value, section) else section.from_dict(value)
                else:
                    parts[owner] = parse(FAMILIES[owner][0], value)
            else:
                if technique and now.name() != technique:
                    now = get(FAMILIES[owner][0], technique)()
                parts[owner] = now.replace(**{knob: value})
        return dataclasses.replace(self, **parts)

    def _resolve(self, path: str, current: dict[str, Any], value: Any
                 ) -> tuple[str, str | None, str | None]:
        """(field, technique to choose or None, control or None)."""
        owner, _, knob = path.partition(".")
        if owner in current:
            if not knob:
                if owner in SECTIONS and not isinstance(value, (dict, SECTIONS[owner])):
                    names = [c.name for c in SECTIONS[owner].controls()]
                    main = {"model": "source", "quality": "level", "telemetry": "preset",
                            "compute": "device"}.get(owner)
                    if main is None:
                        raise SettingsError(f"{owner} has parts; set one of "
                                            + ", ".join(f"{owner}.{n}" for n in names))
                    return owner, None, main
                return owner, None, None
            if owner not in FAMILIES:
                return owner, None, knob
            folder = FAMILIES[owner][0]
            if knob in [c.name for c in current[owner].controls()]:
                return owner, None, knob
            owners = [n for n, c in family(folder).items() if knob in [k.name for k in c.controls()]]
            return owner, _one(folder, owners, knob), knob
        found = self._owners(path)
        chosen = [f for f in found if f[1] is None or current[f[0]].name() == f[1]]
        if not chosen:
            chosen = [f for f in found if f[1] is not None
                      and path in get(FAMILIES[f[0]][0], f[1]).owns]
        if len(chosen) == 1:
            found = chosen
        if len(found) == 1:
            return found[0][0], found[0][1], path
        if found:
            names = [f"{o}.{path}" if t is None else f"{o}={t} with {o}.{path}" for o, t in found]
            raise SettingsError(f"{path!r} could mean several settings: {'; '.join(names)}")
        raise SettingsError(one_of("setting", path, setting_names()))

    @staticmethod
    def _owners(name: str) -> list[tuple[str, str | None]]:
        found: list[tuple[str, str | None]] = [
            (s, None) for s, c in SECTIONS.items() if name in [k.name for k in c.controls()]]
        for owner, (folder, _) in FAMILIES.items():
            found += [(owner, n) for n, c in family(folder).items()
                      if name in [k.name for k in c.controls()]]
        return found

    # -- validity ---------------------------------------------------------------------------

    def techniques(self) -> dict[str, Technique]:
        return {name: getattr(self, name) for name in FAMILIES}

    def _check_combination(self) -> None:
        chosen = {f"{t.family()}/{t.name()}": t for t in self.techniques().values()}
        for key, technique in chosen.items():
            for other, why in technique.excludes.items():
                if other in chosen:
                    raise SettingsError(f"{key} cannot be combined with {other}: {why}")
            why_not = technique.refuses(self)
            if why_not:
                raise SettingsError(why_not)

    def check(self, shape: ModelShape, machine: Machine) -> None:
        """Raises SettingsError when a part cannot work for this model on this machine."""
        for technique in self.techniques().values():
            why = technique.applies(shape, machine)
            if why:
                raise SettingsError(why)

    # -- showing and storing ----------------------------------------------------------------

    def controls(self, shape: ModelShape | None = None, machine: Machine | None = None
                 ) -> list[ControlView]:
        """Every knob that the current choice has, families first; views build themselves from this."""
        views: list[ControlView] = []
        for owner, (folder, default) in FAMILIES.items():
            chosen = getattr(self, owner)
            members = family(folder)
            blocked = {} if shape is None or machine is None else {
                n: why for n, c in members.items() if (why := c().applies(shape, machine))}
            views.append(ControlView(owner, owner, owner, "choice", chosen.name(), default,
                                     chosen.summary(), tuple(members), unavailable=blocked))
            views += [_view(owner, k, getattr(chosen, k.name)) for k in chosen.controls()]
        for owner, section in SECTIONS.items():
            part = getattr(self, owner)
            views += [_view(owner, k, getattr(part, k.name)) for k in section.controls()]
        views.append(ControlView("seed", "seed", "seed", "integer", self.seed, 0,
                                 "same seed, same text", low=0, high=2**63 - 1, soft=(0, 1000)))
        return views

    def diff(self, other: Settings) -> dict[str, tuple[Any, Any]]:
        """path -> (self's value, other's value) for what differs."""
        mine, theirs = self.flat(), other.flat()
        keys = list(dict.fromkeys([*mine, *theirs]))
        return {k: (mine.get(k), theirs.get(k)) for k in keys if mine.get(k) != theirs.get(k)}

    def flat(self) -> dict[str, Any]:
        """path -> value for every setting, e.g. ``weights`` -> ``int4``, ``weights.group`` -> 32."""
        return {v.path: v.value for v in self.controls()}

    def to_dict(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v.to_dict() if isinstance(v, Controlled) else v for k, v in data.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        names = [f.name for f in dataclasses.fields(cls)]
        for name in data:
            if name not in names:
                raise SettingsError(one_of("setting", name, names))
        return cls(**data)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise SettingsError(f"the settings are not valid JSON: {error}") from None

    def to_yaml(self) -> str:
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        import yaml

        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"the settings are not valid YAML: {error}") from None
        if not isinstance(data, dict):
            raise SettingsError("the settings file must be a mapping of names to values")
        return cls.from_dict(data)

    def label(self) -> str:
        """Short name for tables: what differs from the defaults."""
        parts = [str(t) for n, t in self.techniques().items()
                 if t != get(FAMILIES[n][0], FAMILIES[n][1])()]
        if self.sampling != Sampling():
            parts.append(f"T={self.sampling.temperature:g}")
        if self.limits.batch > 1:
            parts.append(f"batch {self.limits.batch}")
        return " + ".join(parts) or str(self.weights)


def _view(owner: str, knob: Control, value: Any) -> ControlView:
    return ControlView(
        path=f"{owner}.{knob.name}", label=knob.name.replace("_", " "), group=owner,
        kind="choice" if knob.choices else _TYPE_NAMES[knob.type], value=value,
        default=knob.default, help=knob.help, choices=knob.choices or (), low=knob.low,
        high=knob.high, soft=knob.soft, step=knob.step, unit=knob.unit)


def setting_names() -> list[str]:
    """The names a user may write, for error messages: families, sections' controls, seed."""
    names = list(FAMILIES) + [k.name for s in SECTIONS.values() for k in s.controls()] + ["seed"]
    for folder, _ in FAMILIES.values():
        names += [k.name for c in family(folder).values() for k in c.controls()]
    return list(dict.fromkeys(names))


def _control_schema(knob: Control) -> dict[str, Any]:
    data: dict[str, Any] = {"type": _TYPE_NAMES[knob.type], "default": knob.default,
                            "description": knob.help}
    if knob.choices is not None:
        data["enum"] = list(knob.choices)
    if knob.low is not None:
        data["minimum"] = knob.low
    if knob.high is not None:
        data["maximum"] = knob.high
    return data


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of :meth:`Settings.to_dict`, made from the catalogue."""
    properties: dict[str, Any] = {}
    for name, section in SECTIONS.items():
        properties[name] = {
            "type": "object", "additionalProperties": False,
            "description": (section.__doc__ or "").split("\n")[0],
            "properties": {k.name: _control_schema(k) for k in section.controls()}}
    for name, (folder, default) in FAMILIES.items():
        properties[name] = {"default": {"name": default}, "oneOf": [
            {"type": "object", "additionalProperties": False, "required": ["name"],
             "title": n, "description": c.summary(),
             "properties": {"name": {"const": n},
                            **{k.name: _control_schema(k) for k in c.controls()}}}
            for n, c in family(folder).items()]}
    properties["seed"] = {"type": "integer", "minimum": 0, "default": 0}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Workbench settings",
            "type": "object", "additionalProperties": False, "properties": properties}


def _one(folder: str, names: list[str], knob: str) -> str | None:
    """The technique that a control belongs to: the only one that has it, or the one that owns it."""
    owners = [n for n in names if knob in get(folder, n).owns] or names
    return owners[0] if len(owners) == 1 else None
