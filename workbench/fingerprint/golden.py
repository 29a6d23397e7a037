"""A configuration's numerics, saved and checked later: did my server silently change?

The file holds, for fixed prompts, a hash of the logits' bits, the likeliest token, and eight logits in
full, so that a difference can be told in size. It names no machine but its processor, and no path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from workbench.errors import StoreError, WorkbenchError
from workbench.fingerprint.collect import Collected, Config, bits, collect

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
_KEPT = 8


class Golden(msgspec.Struct, kw_only=True):
    """``prompts``: token ids; ``hashes``: of each prompt's logits; ``tokens``: the likeliest; ``sample``:
    the first eight logits of each."""

    format: int = FORMAT
    model: str
    config: str
    changes: dict[str, Any]
    processor: str
    versions: dict[str, str]
    prompts: list[list[int]]
    hashes: list[str]
    tokens: list[int]
    sample: list[list[float]]


@dataclass(frozen=True)
class Verdict:
    """``same`` of ``prompts`` have the same bits. ``largest``: difference of the kept logits; ``tokens``:
    prompts whose likeliest token changed. ``looks_like``: configurations here with the saved bits on all
    prompts, where others were tried."""

    config: str
    prompts: int
    same: int
    tokens: int
    largest: float
    changed_versions: tuple[str, ...]
    looks_like: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        return self.same == self.prompts

    def __str__(self) -> str:
        if self.identical:
            return (f"Unchanged: {self.config} gives the saved bits on all {self.prompts} prompts."
                    + self._others())
        return (f"Changed: {self.config} gives other bits on {self.prompts - self.same} of {self.prompts} "
                f"prompts (kept logits differ by {self.largest:.2g} at most; the next token differs on "
                f"{self.tokens})." + self._others() + self._versions())

    def _others(self) -> str:
        others = [n for n in self.looks_like if n != self.config]
        return f" The saved bits are also those of {', '.join(others)} here." if others else ""

    def _versions(self) -> str:
        return f" Since it was saved these changed: {', '.join(self.changed_versions)}." if (
            self.changed_versions) else " No version changed since it was saved."


def digest(row: np.ndarray) -> str:
    """SHA-256 of one prompt's logits as little-endian float32."""
    return hashlib.sha256(bits(row[None]).astype("<u4").tobytes()).hexdigest()


def make(config: Config, model: str = "bundled", count: int = 16) -> Golden:
    """Run the configuration over fixed prompts. Raises WorkbenchError where it is not repeatable:
    then its bits say nothing."""
    found = collect([config], model, count)
    if config.name in found.skipped:
        raise WorkbenchError(f"{config.name} cannot run here: {found.skipped[config.name]}")
    if found.unsteady:
        raise WorkbenchError(f"{config.name} gives other bits every time on this machine, so a fingerprint "
                             "would say nothing; fix the number of threads")
    return _golden(config, model, found)


def _golden(config: Config, model: str, found: Collected) -> Golden:
    logits = found.logits[config.name]
    return Golden(model=model, config=config.name, changes=dict(config.changes), processor=_processor(),
                  versions=_versions(), prompts=found.prompts, hashes=[digest(r) for r in logits],
                  tokens=[int(r.argmax()) for r in logits],
                  sample=[[float(v) for v in r[:_KEPT]] for r in logits])


def _processor() -> str:
    from workbench.machine import this_machine

    return this_machine().cpu


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("torch", "transformers", "inference-workbench", "triton"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def save(golden: Golden, path: Path) -> None:
    """Raises StoreError when the file cannot be written."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(golden), indent=1))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None


def read(path: Path) -> Golden:
    """Raises StoreError with one sentence for what is not such a file."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Golden)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is not a fingerprint ({error}); make one with `workbench fingerprint "
                         "--save FILE`") from None
    if found.format > FORMAT:
        raise StoreError(f"{path} was written by a later version of the workbench; update it")
    return found


def check(golden: Golden, others: list[Config] | None = None,
          progress: Callable[[str, float], None] = lambda what, share: None,
          cancelled: Callable[[], bool] = lambda: False) -> Verdict:
    """Run the saved configuration (and ``others``) on the saved prompts and compare bits."""
    import numpy as np

    mine = Config(golden.config, golden.changes)
    known = {c.name: c for c in [*(others or []), mine] if c.name != golden.config}
    named = next((c for c in others or [] if c.name == golden.config), mine)
    found = collect([named, *known.values()], golden.model, progress=progress, cancelled=cancelled,
                    prompts=golden.prompts)
    if named.name in found.skipped:
        raise WorkbenchError(f"{named.name} cannot run here: {found.skipped[named.name]}")
    now = found.logits[named.name]
    hashes = [digest(r) for r in now]
    versions = _versions()
    changed = tuple(f"{n} {golden.versions.get(n, 'absent')} to {versions.get(n, 'absent')}"
                    for n in sorted({*versions, *golden.versions})
                    if versions.get(n) != golden.versions.get(n))
    if _processor() != golden.processor:
        changed = (*changed, f"processor {golden.processor} to {_processor()}")
    return Verdict(
        named.name, len(golden.prompts), sum(a == b for a, b in zip(hashes, golden.hashes, strict=True)),
        sum(int(r.argmax()) != t for r, t in zip(now, golden.tokens, strict=True)),
        float(np.abs(now[:, :_KEPT] - np.array(golden.sample, dtype=np.float32)).max()), changed,
        tuple(n for n, v in found.logits.items() if [digest(r) for r in v] == golden.hashes))
