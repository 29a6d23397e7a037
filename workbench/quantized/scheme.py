"""What a quantized checkpoint's config says: which format, how many bits, which groups, what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError

if TYPE_CHECKING:
    from workbench.quantized.several import Groups

FORMATS = ("compressed-tensors", "gptq", "awq")


@dataclass(frozen=True)
class Scheme:
    """``group`` 0: one scale per row. ``variant``: the format's own name for how it packs."""

    format: str
    bits: int
    group: int
    symmetric: bool
    variant: str = ""

    def describe(self) -> str:
        """"GPTQ file: 4 bits, group 64, symmetric"."""
        name = {"gptq": "GPTQ", "awq": "AWQ"}.get(self.format, self.format)
        group = f"group {self.group}" if self.group else "one scale per row"
        zero = "symmetric" if self.symmetric else "zero points"
        return f"{name} file ({self.variant}): {self.bits} bits, {group}, {zero}"


def scheme_of(config: dict[str, Any]) -> Scheme | Groups | None:
    """From a parsed config.json; None where nothing is quantized, Groups where there are several schemes.

    Raises ModelError for a scheme that this reader does not know."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return None
    method = str(found.get("quant_method", ""))
    reader = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}.get(method)
    if reader is None:
        raise ModelError(f"the checkpoint is quantized as {method!r}, which is not read here; GPTQ, AWQ and "
                         "compressed-tensors (integer weights) are; open the original model instead")
    return reader(found)


def _gptq(found: dict[str, Any]) -> Scheme:
    variant = str(found.get("checkpoint_format") or found.get("format") or "gptq")
    if variant not in ("gptq", "gptq_v2"):
        raise ModelError(f"the GPTQ checkpoint is packed as {variant!r}; only gptq and gptq_v2 are read")
    return Scheme("gptq", _bits(found, "bits"), _group(found.get("group_size")), bool(found.get("sym")),
                  variant)


def _awq(found: dict[str, Any]) -> Scheme:
    variant = str(found.get("version") or found.get("format") or "gemm").lower()
    if variant != "gemm":
        raise ModelError(f"the AWQ checkpoint is packed as {variant!r}; only gemm is read")
    bits = _bits(found, "bits" if "bits" in found else "w_bit")
    if bits != 4:
        raise ModelError(f"the AWQ checkpoint has {bits} bits; only 4 are read")
    group = found.get("group_size", found.get("q_group_size"))
    return Scheme("awq", bits, _group(group), not found.get("zero_point", True), variant)


def _compressed(found: dict[str, Any]) -> Scheme | Groups:
    groups = list((found.get("config_groups") or {}).values())
    variants = {str(g.get("format") or found.get("format")) for g in groups}
    everywhere = len(groups) == 1 and groups[0].get("targets", ["Linear"]) == ["Linear"]
    if not everywhere or variants == {"float-quantized"}:
        from workbench.quantized.several import groups_of

        return groups_of(found)
    return integers_of(groups[0], variants.pop())


def integers_of(group: dict[str, Any], variant: str) -> Scheme:
    """Of one entry of ``config_groups`` with integer weights. Raises ModelError for other kinds."""
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    if variant != "pack-quantized" or weights.get("type", "int") != "int" or inputs:
        raise ModelError(f"the compressed-tensors checkpoint is {variant} with {weights.get('type')} weights"
                         f"{' and quantized activations' if inputs else ''}; only pack-quantized integer "
                         "weights are read")
    strategy = weights.get("strategy")
    if strategy not in ("group", "channel"):
        raise ModelError(f"the compressed-tensors checkpoint has the strategy {strategy!r}; only group and "
                         "channel are read")
    width = _group(weights.get("group_size")) if strategy == "group" else 0
    return Scheme("compressed-tensors", _bits(weights, "num_bits"), width, bool(weights.get("symmetric")),
                  variant)


def _bits(found: dict[str, Any], key: str) -> int:
    bits = found.get(key)
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ModelError(f"the checkpoint's quantization_config has {key}={bits!r}; 2 to 8 bits are read")
    return bits


def _group(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def config_for(scheme: Scheme, ignore: list[str]) -> dict[str, Any]:
    """The ``quantization_config`` of a checkpoint. ``ignore``: matrices that stay as they are."""
    group = scheme.group or -1
    if scheme.format == "gptq":
        return {"quant_method": "gptq", "bits": scheme.bits, "group_size": group, "sym": scheme.symmetric,
                "desc_act": False, "lm_head": False, "checkpoint_format": scheme.variant,
                "pack_dtype": "int32"}
    if scheme.format == "awq":
        return {"quant_method": "awq", "bits": scheme.bits, "group_size": group, "zero_point": True,
                "version": "gemm", "modules_to_not_convert": ignore}
    weights = {"num_bits": scheme.bits, "type": "int", "symmetric": scheme.symmetric,
               "strategy": "group" if scheme.group else "channel", "group_size": scheme.group or None,
               "dynamic": False, "observer": "minmax", "block_structure": None, "actorder": None,
               "observer_kwargs": {}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "quantization_status": "compressed", "global_compression_ratio": None,
            "kv_cache_scheme": None, "ignore": ignore,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
                                          "input_activations": None, "output_activations": None}}}
