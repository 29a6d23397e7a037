"""What a technique is: a frozen, comparable value with metadata, and the catalogue of all of them.

The catalogue is a directory listing: ``workbench/techniques/<family>/<name>.py`` holds one class
whose module name is its name and whose folder is its family. Adding a technique is adding a file.
Everything else (settings, validation, widgets, CLI options, documentation, contract tests) is read
from the class: its docstring, ``paper``, ``claim``, ``lossless``, its ``control()`` fields.
Technique modules import neither torch nor kernels at module level.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from workbench.errors import SettingsError, one_of

if TYPE_CHECKING:
    from workbench.machine import Machine
    from workbench.settings import Settings
    from workbench.shape import ModelShape


@dataclass(frozen=True)
class Paper:
    """Where a technique comes from. ``arxiv`` is an identifier, or empty for common practice."""

    arxiv: str
    cite: str
    section: str = ""

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass(frozen=True)
class Claim:
    """What the source reports, with the setup it was reported on."""

    text: str
    setup: str = ""
    memory: str = ""


@dataclass(frozen=True)
class Control:
    """One knob. ``low high`` are hard bounds; ``soft`` sizes the slider; ``choices`` enumerates."""

    name: str
    type: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    soft: tuple[float, float] | None = None
    step: float | None = None
    choices: tuple[Any, ...] | None = None
    unit: str = ""

    def check(self, value: Any, where: str) -> Any:
        """``value`` converted to the control's type, or SettingsError naming the valid range."""
        name = f"{where}.{self.name}" if where else self.name
        if self.choices is not None:
            for choice in self.choices:
                if value == choice or str(value) == str(choice):
                    return choice
            raise SettingsError(
                f"{name}={value!r} is not valid; choose one of {', '.join(map(str, self.choices))}")
        value = _convert(value, self.type, name)
        low, high = self.low, self.high
        if (low is not None and value < low) or (high is not None and value > high):
            top = "unbounded" if high is None else f"{high:g}"
            bottom = "unbounded" if low is None else f"{low:g}"
            raise SettingsError(f"{name}={value} is out of range; valid: {bottom} to {top}")
        return value


def control(
    default: Any, low: float | None = None, high: float | None = None, *, help: str,
    choices: tuple[Any, ...] | None = None, soft: tuple[float, float] | None = None,
    step: float | None = None, unit: str = "",
) -> Any:
    """A dataclass field with a knob's metadata (see :class:`Control`)."""
    meta = Control("", type(default), default, help, low, high, soft, step, choices, unit)
    return field(default=default, metadata={"control": meta})


def _convert(value: Any, kind: type, name: str) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "on", "1"):
            return True
        if str(value).lower() in ("false", "no", "off", "0"):
            return False
        raise SettingsError(f"{name}={value!r} is not valid; choose true or false")
    if kind is str:
        if isinstance(value, str):
            return value
        raise SettingsError(f"{name}={value!r} must be text")
    try:
        number = kind(value) if not isinstance(value, bool) else None
        if number is not None and (kind is float or float(value) == number) and number == number:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    word = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
    raise SettingsError(f"{name}={value!r} must be {word}")


@dataclass(frozen=True)
class Controlled:
    """A frozen record whose fields are knobs: converted and checked when it is made."""

    def __post_init__(self) -> None:
        for knob in self.controls():
            object.__setattr__(self, knob.name, knob.check(getattr(self, knob.name), self.where()))

    @classmethod
    def where(cls) -> str:
        """How errors name this record."""
        return cls.__name__.lower()

    @classmethod
    def controls(cls) -> list[Control]:
        return [
            dataclasses.replace(f.metadata["control"], name=f.name)
            for f in dataclasses.fields(cls) if "control" in f.metadata
        ]

    def replace(self, **changes: Any) -> Self:
        """A copy with changes; an unknown name is refused."""
        names = [c.name for c in self.controls()]
        for name in changes:
            if name not in names:
                raise SettingsError(one_of(f"control in {self.where()} called", name, names)
                                    if names else f"{self.where()} has no controls, so no {name!r}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return {c.name: getattr(self, c.name) for c in self.controls()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls().replace(**data)


@dataclass(frozen=True)
class Technique(Controlled):
    """Base of every family's protocol. Concrete classes are final, frozen dataclasses."""

    title: ClassVar[str] = ""
    paper: ClassVar[Paper] = Paper("", "common practice")
    claim: ClassVar[Claim] = Claim("")
    #: The output is the target model's own, exactly (greedy) or in distribution (sampled).
    lossless: ClassVar[bool] = True
    #: What must be there: "cuda", "triton", "draft", "disk".
    needs: ClassVar[tuple[str, ...]] = ()
    #: ``family/name`` of techniques that cannot be combined with this one -> why.
    excludes: ClassVar[dict[str, str]] = {}
    #: Controls that others have too and that mean this technique when they are set by their bare name.
    owns: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def name(cls) -> str:
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def family(cls) -> str:
        return cls.__module__.split(".")[-2]

    @classmethod
    def where(cls) -> str:
        return cls.name()

    @classmethod
    def summary(cls) -> str:
        """The class docstring's first paragraph, one help line without its code marks."""
        return " ".join((cls.__doc__ or "").strip().split("\n\n")[0].replace("``", "").split())

    def named(self) -> dict[str, list[Technique]]:
        """Text controls that list techniques and name no file -> the techniques they list. Raises
        SettingsError where one is wrong."""
        return {}

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        """Why this cannot work for this model on this machine, or None."""
        if "cuda" in self.needs and not machine.gpus:
            return f"{self.name()} needs a CUDA GPU and this machine has none"
        return None

    def refuses(self, settings: Settings) -> str | None:
        """Why this cannot be combined with the other settings, or None."""
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name(), **super().to_dict()}

    def __str__(self) -> str:
        changed = [f"{c.name}={getattr(self, c.name)}" for c in self.controls()
                   if getattr(self, c.name) != c.default]
        return self.name() + (f"({', '.join(changed)})" if changed else "")


@functools.cache
def families() -> tuple[str, ...]:
    """Folder names under ``workbench/techniques``, sorted."""
    import workbench.techniques as package

    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg))


@functools.cache
def family(name: str) -> dict[str, type[Technique]]:
    """name -> class, for one family. Raises SettingsError for an unknown family."""
    if name not in families():
        raise SettingsError(one_of("family", name, list(families())))
    package = importlib.import_module(f"workbench.techniques.{name}")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("_"):
            continue
        code = importlib.import_module(f"{package.__name__}.{module.name}")
        classes = [c for c in vars(code).values() if isinstance(c, type)
                   and issubclass(c, Technique) and c.__module__ == code.__name__]
        if len(classes) != 1:
            raise TypeError(f"{code.__name__} must define exactly one technique class")
        found[module.name] = classes[0]
    return found


def get(family_name: str, name: str) -> type[Technique]:
    """The class, or SettingsError that names the valid ones."""
    members = family(family_name)
    name = name.replace("-", "_")  # llama-cpp is llama_cpp
    if name not in members:
        raise SettingsError(one_of(f"{family_name} technique", name, list(members)))
    return members[name]


def all_techniques() -> list[type[Technique]]:
    """Every technique of every family, in catalogue order."""
    return [c for f in families() for c in family(f).values()]


def parse(family_name: str, value: Any) -> Technique:
    """``"int4"``, ``"int4(group=64)"``, ``{"name": "int4", "group": 64}`` or an instance."""
    if isinstance(value, Technique):
        if value.family() != family_name:
            raise SettingsError(f"{value} is a {value.family()} technique, not {family_name}")
        return value
    if isinstance(value, dict):
        data = dict(value)
        return get(family_name, str(data.pop("name", ""))).from_dict(data)
    name, _, arguments = str(value).partition("(")
    pairs = [p.partition("=") for p in arguments.rstrip(")").split(",") if p.strip()]
    return get(family_name, name.strip()).from_dict({k.strip(): v.strip() for k, _, v in pairs})
