"""A static KV cache in 2 or 4 bits (KIVI): keys per channel in groups of tokens, values per token.

Of S tokens before a forward, the first S - S mod R have packed keys, the first S - R packed values; the
rest is kept
in full. So the most recent tokens stay exact, and what a draft appended can be taken back without undoing
rounding.
A long prompt is packed at once except for its last ``_BEHIND`` tokens. Reading unpacks into one scratch
shared by all
layers (as the int8 cache does); on a GPU ``kernels.kivi.gpu`` attends without that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import SettingsError
from workbench.kernels.kivi import cpu
from workbench.runtime.cache import FullLayer, StaticCache, Width, widths
from workbench.runtime.cache_int8 import Scratch

#: Rows of one forward that can be taken back; a forward with more is a prompt's.
_BEHIND = 128


@dataclass(frozen=True)
class Form:
    """How keys and values are packed: bits of each, numbers per group, tokens kept in full."""

    bits: int = 2
    value_bits: int = 2
    group: int = 32
    residual: int = 128


def value_group(width: int, group: int) -> int:
    """Channels of a value that share a scale: ``group`` where it divides the width, else less."""
    while width % group:
        group //= 2
    return group


class KiviLayer(FullLayer):
    """One layer. ``keys`` and ``values`` hold what is in full: tokens from ``packed_keys`` and
    ``packed_values`` on."""

    ragged = movable = False

    def __init__(self, form: Form, scratch: Scratch, *args: Any) -> None:
        self.form, self.scratch = form, scratch
        self.packed_keys = self.packed_values = 0
        super().__init__(*args)

    def _allocate(self, width: Width) -> None:
        heads, key, value = width
        form, many = self.form, (self.batch, heads)
        if value % (8 // form.value_bits) or key < 1:
            raise SettingsError(
                f"{form.value_bits}-bit values need a head width that is a multiple of "
                f"{8 // form.value_bits}; this model's is {value}"
            )

        def zeros(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
            return torch.zeros(*many, *shape, device=self.device, dtype=dtype)

        groups = -(-self.capacity // form.group)
        self.codes = zeros(groups, form.group * form.bits // 8, key)
        self.pairs = zeros(groups, 2, key, dtype=torch.bfloat16)
        self.value_codes = zeros(self.capacity, value * form.value_bits // 8)
        self.value_pairs = zeros(
            self.capacity, value // value_group(value, form.group), 2, dtype=torch.bfloat16
        )
        rest = form.residual + _BEHIND
        self.keys = zeros(rest, key, dtype=self.dtype)
        self.values = zeros(rest, value, dtype=self.dtype)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, end = self.length, self.length + key_states.shape[2]
        self.check(key_states, value_states, end)
        self._pack(start)
        shown = self.shown(end)
        keys, values = self._room("keys", key_states, shown), self._room("values", value_states, shown)
        self._read_keys(keys, start)
        self._read_values(values, start)
        for out, new in ((keys, key_states), (values, value_states)):
            out[:, :, start:end] = new
            out[:, :, end:] = 0
        self.length = end
        self._append(keys, values, start, end)
        return keys, values

    def _room(self, which: str, like: torch.Tensor, shown: int) -> torch.Tensor:
        whole = like.new_empty(1).expand(self.batch, like.shape[1], self.capacity, like.shape[3])
        return self.scratch.get(which, whole, like.dtype)[:, :, :shown]

    # -- what is in full becomes packed ----------------------------------------------------

    def _pack(self, final: int) -> None:
        """Packs what the first ``final`` tokens allow; all that from here on is never taken back."""
        form = self.form
        keys = final // form.residual * form.residual
        if keys > self.packed_keys:
            self._store_keys(self.keys[:, :, : keys - self.packed_keys], self.packed_keys)
            self._drop(self.keys, keys - self.packed_keys, self.length - keys)
            self.packed_keys = keys
        values = final - form.residual
        if values > self.packed_values:
            self._store_values(self.values[:, :, : values - self.packed_values], self.packed_values)
            self._drop(self.values, values - self.packed_values, self.length - values)
            self.packed_values = values

    @staticmethod
    def _drop(buffer: torch.Tensor, first: int, left: int) -> None:
        buffer[:, :, :left] = buffer[:, :, first : first + left].clone()

    def _store_keys(self, keys: torch.Tensor, start: int) -> None:
        form = self.form
        codes, pairs = cpu.pack_keys(keys, form.bits, form.group)
        at = slice(start // form.group, start // form.group + codes.shape[2])
        self.codes[:, :, at], self.pairs[:, :, at] = codes, pairs

    def _store_values(self, values: torch.Tensor, start: int) -> None:
        group = value_group(values.shape[3], self.form.group)
        at = slice(start, start + values.shape[2])
        self.value_codes[:, :, at], self.value_pairs[:, :, at] = cpu.pack_values(
            values, self.form.value_bits, group
        )

    def _append(self, keys: torch.Tensor, values: torch.Tensor, start: int, end: int) -> None:
        """Tokens [start, end) behind those in full; what of a prompt does not fit is packed at once."""
        form, final = self.form, end - _BEHIND
        first = start
        if end - self.packed_keys > self.keys.shape[2]:
            first = final // form.residual * form.residual
            self._store_keys(keys[:, :, self.packed_keys : first], self.packed_keys)
            self.packed_keys = first
        self.keys[:, :, first - self.packed_keys : end - self.packed_keys] = keys[:, :, first:end]
        first = start
        if end - self.packed_values > self.values.shape[2]:
            first = final - form.residual
            self._store_values(values[:, :, self.packed_values : first], self.packed_values)
            self.packed_values = first
        self.values[:, :, first - self.packed_values : end - self.packed_values] = values[:, :, first:end]

    # -- reading ---------------------------------------------------------------------------

    def _read_keys(self, out: torch.Tensor, end: int) -> None:
        packed, form = self.packed_keys, self.form
        if packed:
            groups = packed // form.group
            out[:, :, :packed] = cpu.unpack_keys(
                self.codes[:, :, :groups], self.pairs[:, :, :groups], form.bits, out.dtype
            )
        out[:, :, packed:end] = self.keys[:, :, : end - packed]

    def _read_values(self, out: torch.Tensor, end: int) -> None:
        packed = self.packed_values
        if packed:
            out[:, :, :packed] = cpu.unpack_values(
                self.value_codes[:, :, :packed],
                self.value_pairs[:, :, :packed],
                self.form.value_bits,
                out.dtype,
            )
        out[:, :, packed:end] = self.values[:, :, : end - packed]

    # -- rolling back ----------------------------------------------------------------------

    def move(self, base: int, rows: torch.Tensor) -> None:
        for buffer, first in (
            (self.keys, base - self.packed_keys),
            (self.values, base - self.packed_values),
        ):
            buffer[:, :, first : first + len(rows)] = buffer.index_select(2, rows + first)

    def rewind(self, length: int) -> None:
        """Forget tokens from ``length`` on. Packed ones that come back into the window stay rounded."""
        if length < self.packed_keys:
            keep = length // self.form.residual * self.form.residual
            groups = slice(keep // self.form.group, self.packed_keys // self.form.group)
            back = cpu.unpack_keys(
                self.codes[:, :, groups], self.pairs[:, :, groups], self.form.bits, self.dtype
            )
            self.keys[:, :, : length - keep] = back[:, :, : length - keep]
            self.packed_keys = keep
        if length < self.packed_values:
            keep = max(0, length - self.form.residual)
            at = slice(keep, length)
            self.values[:, :, : length - keep] = cpu.unpack_values(
                self.value_codes[:, :, at], self.value_pairs[:, :, at], self.form.value_bits, self.dtype
            )
            self.packed_values = keep
        self.length = length

    def take(self, sequences: torch.Tensor) -> None:
        super().take(sequences)
        self.codes, self.pairs = self.codes[sequences], self.pairs[sequences]
        self.value_codes, self.value_pairs = self.value_codes[sequences], self.value_pairs[sequences]

    def buffers(self) -> list[torch.Tensor]:
        return [self.keys, self.values, self.codes, self.pairs, self.value_codes, self.value_pairs]


class KiviCache(StaticCache):
    """As :class:`StaticCache`; its workspace is the shared scratch."""

    def __init__(self, layers: list[KiviLayer], scratch: Scratch, label: str) -> None:
        super().__init__(layers, label)
        self._scratch = scratch

    def rewind(self, length: int) -> None:
        for layer in self.parts:
            assert isinstance(layer, KiviLayer)
            layer.rewind(length)

    @property  # type: ignore[override]
    def workspace_bytes(self) -> int:
        return self._scratch.nbytes

    @workspace_bytes.setter
    def workspace_bytes(self, value: int) -> None:
        return None


def kivi_cache(
    config: Any, batch: int, capacity: int, device: torch.device, dtype: torch.dtype, form: Form
) -> StaticCache:
    """Bytes: ``techniques.kvcache.kivi.Kivi.token_bytes`` per token and ``fixed_bytes`` per sequence."""
    scratch = Scratch()
    layers = [KiviLayer(form, scratch, batch, capacity, w, device, dtype) for w in widths(config)]
    label = (
        f"keys {form.bits}-bit per channel, values {form.value_bits}-bit per token, groups of {form.group}, "
        f"the last {form.residual} tokens in {str(dtype).removeprefix('torch.')}"
    )
    return KiviCache(layers, scratch, label)
