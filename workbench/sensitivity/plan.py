"""A plan: one scheme per matrix of a model, chosen under a budget, as a value and as a file.

Schemes are written without brackets and commas (``int4/group=32``), so that lists of them fit into one
setting: ``weights=mixed(methods=int8 int4/group=32, raised=layers.3.mlp.down_proj:int8)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import SettingsError, StoreError
from workbench.sensitivity.errors import Cell, ErrorMap
from workbench.sensitivity.solve import Choice, Solution, frontier, solve
from workbench.techniques.base import parse

if TYPE_CHECKING:
    from workbench.techniques.weights import Weights

VERSION = 1
#: Kept as it is: 16 bits per weight and no loss.
EXACT = "bf16"


@dataclass(frozen=True)
class Plan:
    """``choice``: matrix -> scheme, in the model's order.

    ``nbytes``: of these matrices as stored. ``bits``: the same per weight. ``kl``: the sum of what each
    matrix costs alone, nats per token: an estimate of the whole, good while errors are small; None where
    nothing was measured. ``time_s``: one row through every matrix, where times were
    measured. ``about``: budget and error map."""

    choice: dict[str, str]
    nbytes: int
    bits: float
    kl: float | None
    time_s: float | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Scheme -> how many matrices have it."""
        found: dict[str, int] = {}
        for name in self.choice.values():
            found[name] = found.get(name, 0) + 1
        return found

    def describe(self) -> str:
        """In words: "31 x int4/group=64, 25 x int8"."""
        return ", ".join(f"{n} x {name}" for name, n in sorted(self.counts().items(), key=lambda c: -c[1]))


def scheme(text: str) -> Weights:
    """``int4/group=32`` -> the technique. Raises SettingsError that names the valid ones."""
    name, *changes = text.strip().split("/")
    return parse("weights", f"{name}({','.join(changes)})")  # type: ignore[return-value]


def short(method: Weights | str) -> str:
    """The technique (or its ``int4(group=32)``) as plans write it: ``int4/group=32``."""
    text = str(method)
    name, _, rest = text.partition("(")
    return "/".join([name, *(part.strip() for part in rest.rstrip(")").split(",") if part.strip())])


def choose(found: ErrorMap, *, bits: float | None = None, time_s: float | None = None,
           times: Mapping[tuple[int, int, str], float] | None = None) -> Plan:
    """The mixture of the map's schemes (and ``bf16``) with the least summed KL under a budget: ``bits``
    stored per weight, or ``time_s`` for one row through every matrix, with ``times`` in seconds by
    (rows, columns, scheme).

    Solved exactly. Raises SettingsError for a budget below the cheapest mixture, and for maps without KL."""
    cells = _cells(found)
    modules = list(found.modules)
    shapes = [_shape(cells, m) for m in modules]
    weights = sum(r * c for r, c in shapes)
    options, budget = _options(cells, modules, bits, time_s, times, weights)
    names = [[c.name for c in row] for row in options]
    try:
        solution = solve(options, budget)
    except SettingsError:
        raise _too_little(options, bits, weights) from None
    return _plan(found, modules, names, solution, times, {"bits": bits, "time_s": time_s})


def ladder(found: ErrorMap, points: int = 48) -> list[tuple[float, float]]:
    """(bits per weight, summed KL) of the best mixtures, from the smallest to the exact model."""
    cells, modules = _cells(found), list(found.modules)
    weights = sum(r * c for r, c in (_shape(cells, m) for m in modules))
    options, budget = _options(cells, modules, 16.0, None, None, weights)
    return [(8 * s.cost / weights, s.loss) for s in frontier(options, budget, points)]


def uniform(found: ErrorMap, method: str) -> tuple[float, float]:
    """(bits per weight, summed KL) with ``method`` everywhere."""
    cells = found.of(method)
    return (8 * sum(c.nbytes for c in cells) / sum(c.rows * c.columns for c in cells),
            sum(c.kl or 0.0 for c in cells))


def raised(plan: Plan, changes: Mapping[str, str]) -> Plan:
    """The plan with some matrices given another scheme. A name may leave out its beginning
    (``layers.3.mlp.down_proj``) or be a layer (``layers.3``). Bytes and KL of what is changed are not
    known here and stay the plan's own."""
    choice = dict(plan.choice)
    for name, method in changes.items():
        text = short(scheme(method))
        hit = [m for m in choice if f".{m}.".endswith(f".{name}.") or f".{name}." in f".{m}."]
        if not hit:
            raise SettingsError(f"no matrix of this model is called {name!r}; matrices are called like "
                                f"{next(iter(choice))}")
        choice.update(dict.fromkeys(hit, text))
    return Plan(choice, plan.nbytes, plan.bits, plan.kl, plan.time_s, {**plan.about, "raised": dict(changes)})


def save(plan: Plan, path: Path) -> None:
    """Written beside and renamed."""
    aside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"version": VERSION, **asdict(plan)}, indent=1), "utf-8")
        aside.replace(path)
    except OSError as error:
        raise StoreError(f"the plan cannot be written to {path} ({error.strerror or error}); choose another "
                         "place") from None


def load(path: Path) -> Plan:
    """Raises SettingsError where the file is not a plan or names a scheme that is not there."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.pop("version") != VERSION:
            raise SettingsError(f"{path} is a plan of another version; make it again with `workbench plan`")
        plan = Plan(**data)
        if not isinstance(plan.choice, dict) or not plan.choice:
            raise TypeError("choice")
    except OSError as error:
        raise SettingsError(f"the plan {path} cannot be read ({error.strerror or error}); make one with "
                            "`workbench plan --save FILE`, or set plan=auto") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SettingsError(f"{path} is not a plan; make one with `workbench plan --save FILE`") from None
    for name in set(plan.choice.values()):
        scheme(name)
    return plan


def _cells(found: ErrorMap) -> dict[str, list[Cell]]:
    cells: dict[str, list[Cell]] = {}
    for cell in found.cells:
        if cell.kl is None:
            raise SettingsError("this error map has no KL divergences, so nothing can be weighed against the "
                                "bytes; measure it with kl=True")
        cells.setdefault(cell.module, []).append(cell)
    if not cells:
        raise SettingsError("the error map is empty; measure at least one scheme")
    return cells


def _shape(cells: dict[str, list[Cell]], module: str) -> tuple[int, int]:
    first = cells[module][0]
    return first.rows, first.columns


def _options(cells: dict[str, list[Cell]], modules: Sequence[str], bits: float | None, time_s: float | None,
             times: Mapping[tuple[int, int, str], float] | None, weights: int
             ) -> tuple[list[list[Choice]], int]:
    """Choices per matrix and the budget, in bytes or nanoseconds."""
    if (bits is None) == (time_s is None):
        raise SettingsError("give one budget: bits per weight, or a time")
    options = []
    for module in modules:
        rows, columns = _shape(cells, module)
        row = [(short(c.method), c.nbytes, c.kl or 0.0) for c in cells[module]]
        if EXACT not in (r[0] for r in row):
            row.append((EXACT, 2 * rows * columns, 0.0))
        if time_s is not None:
            if times is None:
                raise SettingsError("a budget of time needs times; measure them first")
            row = [(n, round(1e9 * times[rows, columns, n]), k) for n, _, k in row]
        options.append([Choice(*r) for r in row])
    return options, round(bits * weights / 8) if bits is not None else round(1e9 * (time_s or 0.0))


def _too_little(options: list[list[Choice]], bits: float | None, weights: int) -> SettingsError:
    least = sum(min(c.cost for c in row) for row in options)
    if bits is not None:
        return SettingsError(f"{bits:g} bits per weight are too few: the smallest scheme offered takes "
                             f"{8 * least / weights:.4g} everywhere; raise bits, or offer schemes with fewer")
    return SettingsError(f"the time is too short: the fastest scheme offered takes {least / 1e6:.3g} ms for "
                         "one row; raise it")


def _plan(found: ErrorMap, modules: list[str], names: list[list[str]], solution: Solution,
          times: Mapping[tuple[int, int, str], float] | None, budget: dict[str, Any]) -> Plan:
    choice = {m: row[i] for m, row, i in zip(modules, names, solution.picks, strict=True)}
    known = {(c.module, short(c.method)): c for c in found.cells}
    shape = {c.module: (c.rows, c.columns) for c in found.cells}
    nbytes = sum(known[m, n].nbytes if (m, n) in known else 2 * shape[m][0] * shape[m][1]
                 for m, n in choice.items())
    seconds = None if times is None else sum(times[(*shape[m], n)] for m, n in choice.items())
    return Plan(choice, nbytes, 8 * nbytes / sum(r * c for r, c in shape.values()), solution.loss, seconds,
                {"budget": {k: v for k, v in budget.items() if v is not None}, "map": dict(found.about),
                 "schemes": [short(m) for m in found.methods]})
