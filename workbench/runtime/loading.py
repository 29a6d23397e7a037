"""Opening a model: from settings to a transformers module whose matrices are already packed.

The module tree is made without memory, then filled one layer after the other: each matrix is read
(or drawn), moved to its device, packed by the chosen technique and freed before the next one. So the
peak is the packed size plus one matrix (plus what is in flight), never the full checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.errors import Cancelled, ModelError, OutOfMemory, SettingsError, WorkbenchError
from workbench.events import Effective, Event, Progress
from workbench.runtime.checkpoint import Checkpoint
from workbench.runtime.gguf_checkpoint import GgufCheckpoint, GgufMatrices
from workbench.runtime.guard import layers_of
from workbench.runtime.oom import explained, is_out_of_memory
from workbench.runtime.packed import Packed
from workbench.runtime.sources import Source, resolve
from workbench.runtime.tokens import tokenizer_for
from workbench.shape import ModelShape, from_config
from workbench.units import format_bytes

if TYPE_CHECKING:
    from workbench.settings import Settings

Emit = Callable[[Event], None]
#: Elements of a matrix whose pieces are given back to the OS before the next one is read.
_LARGE = 1 << 22


@dataclass
class Loaded:
    """A model in place. ``effective``: what was asked and what was done, by settings path.

    ``parked``: what the tiers technique took away while loading, None when all is resident."""

    model: Any
    tokenizer: Any
    tokenizer_name: str
    shape: ModelShape
    device: torch.device
    dtype: torch.dtype
    packed: dict[str, Packed] = field(default_factory=dict)
    effective: dict[str, Effective] = field(default_factory=dict)
    parked: Any = None

    @property
    def weights_bytes(self) -> int:
        """Bytes of parameters and buffers held in memory, shared storage once."""
        seen = {t.data_ptr(): t.numel() * t.element_size()
                for t in (*self.model.parameters(), *self.model.buffers()) if not t.is_meta}
        return sum(seen.values())


def load_model(settings: Settings, emit: Emit, cancelled: Callable[[], bool] | None = None
               ) -> Loaded:
    """Read or draw the model that ``settings`` names, packed as ``settings.weights`` says.

    Emits ``Progress`` per layer. Raises ModelError (nothing usable there), SettingsError (a device
    that is not here), OutOfMemory, Cancelled; after any of them nothing stays allocated."""
    device = choose_device(settings.compute.device)
    source = resolve(settings.model)
    shape = from_config(source.config)
    dtype = getattr(torch, settings.weights.compute_dtype)
    tokenizer, named = tokenizer_for(source.folder, shape.vocab, source.random or source.gguf is not None,
                                     settings.model.trust_remote_code)
    model = skeleton(source, dtype, settings.model.trust_remote_code)
    parked = settings.tiers.parking(len(layers_of(model)), device)
    advice = "choose int4 weights, stream the layers (tiers=stream), or take a smaller model"
    try:
        with explained(f"loading the model on {device}", advice), torch.no_grad():
            prepared = _prepared(settings, source, device, emit, cancelled)
            _refuse_too_big(settings, shape, device, parked is not None, advice,
                            getattr(prepared, "nbytes", None))
            filler = Filler(model, settings, source, device, dtype, emit, cancelled,
                            prepared)
            filler.fill(parked)
            if parked is not None:
                parked.seal()
    except BaseException:
        if parked is not None:
            parked.close()
        raise
    model.requires_grad_(False)
    model.eval()
    loaded = Loaded(model, tokenizer, named, shape, device, dtype, filler.packed, {}, parked)
    loaded.effective = _read_back(settings, loaded, filler)
    return loaded


def choose_device(name: str) -> torch.device:
    """``auto`` takes the first GPU, else the CPU. Raises SettingsError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise SettingsError(f"compute.device={name!r} is not valid; choose auto, cpu, cuda or cuda:1")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        have = f"it has {count} (cuda:0 to cuda:{count - 1})" if count else "no CUDA GPU is usable"
        raise SettingsError(f"compute.device={name!r} is not on this machine: {have}; choose auto")
    return torch.device("cuda", int(index or 0))


# -- the empty tree ------------------------------------------------------------------------------


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """New modules get parameters without memory; buffers (rotary tables, masks) stay real."""
    register = nn.Module.register_parameter

    def without_memory(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            self._parameters[name] = nn.Parameter(param.to("meta"), requires_grad=False)

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def skeleton(source: Source, dtype: torch.dtype, trust: bool) -> Any:
    """The transformers module with all parameters on the meta device, buffers real."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(source.config_path, trust_remote_code=trust,
                                            local_files_only=True)
        with _parameters_on_meta():
            return AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=trust)
    except WorkbenchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise  # the caller says it; the config is not to blame
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"transformers cannot build the model in {source.config_path} ({reason}); "
                         "check the config") from None


def _refuse_too_big(settings: Settings, shape: ModelShape, device: torch.device, streamed: bool,
                    advice: str, known: int | None = None) -> None:
    """``known``: bytes of the weights where they are not what the technique would make.

    On a machine that overcommits, too much memory ends in a kill, not in an error: look first."""
    import psutil

    if streamed:
        return
    item = 4 if settings.weights.compute_dtype == "float32" else 2
    layer = sum(settings.weights.storage_bytes(r, c) for _, r, c in shape.linears())
    heads = shape.embedding_parameters * item * (1 if shape.tied else 2)
    need = shape.layers * layer + heads if known is None else known
    free = (torch.cuda.mem_get_info(device)[0] if device.type == "cuda"
            else psutil.virtual_memory().available)
    if need > free:
        raise OutOfMemory(f"the weights need about {format_bytes(need)} on {device} and "
                          f"{format_bytes(free)} is free; {advice}")


# -- filling it ----------------------------------------------------------------------------------


class Filler:
    """Fills a skeleton in module order; every matrix of a decoder layer is packed on the way."""

    def __init__(self, model: Any, settings: Settings, source: Source, device: torch.device,
                 dtype: torch.dtype, emit: Emit, cancelled: Callable[[], bool] | None,
                 prepared: Any = None) -> None:
        self.prepared = prepared  # what ``Weights.prepare`` gave: codes of every matrix, or None
        self.model, self.technique, self.seed = model, settings.weights, settings.seed
        self.device, self.dtype = device, dtype
        self.emit, self.cancelled = emit, cancelled or (lambda: False)
        self.packed: dict[str, Packed] = {}
        self.left: list[str] = []  # expert stacks, which no technique packs
        self._shared: dict[int, nn.Parameter] = {}  # id of meta parameter -> filled (tied weights)
        self._tensors = tensors_of(model, settings, source, prepared)
        self._untie()
        self._total = sum(p.numel() * p.element_size() for p in model.parameters())
        self._done = 0

    def _untie(self) -> None:
        """A prepared head that is not the embedding any more gets a parameter of its own."""
        head = self.model.get_output_embeddings()
        name = next((n for n, m in self.model.named_modules() if m is head), "")
        if self.prepared is None or f"{name}.weight" not in self.prepared.parameters():
            return
        if head.weight is self.model.get_input_embeddings().weight:
            head.weight = nn.Parameter(torch.empty_like(head.weight), requires_grad=False)
            self.model.config.tie_word_embeddings = False

    @property
    def converted(self) -> bool:
        return self._tensors.converted

    @property
    def stored(self) -> str:
        """How a file stores the weights, where that is not how they are loaded."""
        held = getattr(self._tensors, "_files", None)
        if not isinstance(held, GgufCheckpoint):
            return ""
        return f"; read from GGUF ({held.file.scheme()})" + (
            "" if isinstance(self.prepared, GgufMatrices) else ", decoded and then stored as weights says")

    def fill(self, parked: Any) -> None:
        try:
            layers = {id(m): i for i, m in enumerate(layers_of(self.model))}
            self._outside(layers)
            for name, module in self._units(layers):
                if id(module) not in layers:
                    continue
                self._check()
                index = layers[id(module)]
                self._fill_unit(name, module, inside=True)
                if parked is not None:
                    parked.put(index, module)
                return_freed(self.device)
                self._tell(name)
        finally:
            self._tensors.close()
            if self.prepared is not None:
                self.prepared.close()
        self._buffers()

    def _outside(self, layers: dict[int, int]) -> None:
        """What is no layer. The head is the largest matrix: it is packed while nothing else is there yet, and
        nothing may hold on to the matrix that it was."""
        for name, module in self._units(layers):
            if id(module) not in layers:
                self._check()
                self._fill_unit(name, module, inside=False)
                self._tell(name)
        self._pack_head()
        kept = {id(p) for p in self.model.parameters()}
        self._shared = {key: p for key, p in self._shared.items() if id(p) in kept}
        return_freed(self.device)

    def _units(self, layers: dict[int, int]) -> Iterator[tuple[str, nn.Module]]:
        """Decoder layers whole, everything else by module, in module order."""
        inside = ""
        for name, module in list(self.model.named_modules()):
            if inside and name.startswith(inside):
                continue
            if id(module) in layers:
                inside = name + "."
            yield name, module

    def _fill_unit(self, name: str, module: nn.Module, inside: bool) -> None:
        if not inside:
            return self._own(name, module)
        for path, child in list(module.named_modules()):
            full = f"{name}.{path}" if path else name
            if is_matrix(child):
                large = child.weight.numel() > _LARGE  # type: ignore[operator, union-attr]
                self._pack(full, child)
                if large:
                    return_freed(self.device)
            else:
                self._own(full, child, inside=True)
        return None

    def _own(self, name: str, module: nn.Module, inside: bool = False) -> None:
        """Parameters that belong to ``module`` itself, in the compute dtype."""
        for key, param in list(module._parameters.items()):
            if param is None:
                continue
            if inside and param.ndim > 2:
                self.left.append(f"{name}.{key}")
            if id(param) not in self._shared:
                value = self._take(name, module, key, param)
                self._shared[id(param)] = nn.Parameter(value, requires_grad=False)
            module._parameters[key] = self._shared[id(param)]

    def _pack(self, name: str, module: nn.Module) -> None:
        own = module._parameters
        assert own["weight"] is not None
        technique = self.technique
        if self.prepared is not None:  # a mixture names a technique for matrices without codes
            named = getattr(self.prepared, "method", None)
            chosen = None if named is None else named(name)
            if chosen is None:
                return self._pack_prepared(name, module)
            technique = chosen
        weight = self._take(name, module, "weight", own["weight"])
        held = own.get("bias")
        bias = None if held is None else self._take(name, module, "bias", held)
        if not isinstance(module, nn.Linear):  # GPT-2's Conv1D keeps [in, out]
            weight = weight.t().contiguous()
        self._place(name, technique.pack(weight, bias))
        return None

    def _pack_prepared(self, name: str, module: nn.Module) -> None:
        held, weight = module._parameters.get("bias"), module._parameters["weight"]
        assert weight is not None
        bias = None if held is None else self._take(name, module, "bias", held)
        self._done += weight.numel() * weight.element_size()
        self._check()
        rows, columns = weight.shape if isinstance(module, nn.Linear) else weight.shape[::-1]
        self._place(name, self.prepared.pack(name, bias, self.device, (rows, columns)))

    def _place(self, name: str, packed: nn.Module) -> None:
        parent, _, key = name.rpartition(".")
        self.packed[name] = packed  # type: ignore[assignment]
        setattr(self.model.get_submodule(parent), key, packed)

    def _pack_head(self) -> None:
        """See ``Weights.packs_head``: the lookup keeps its matrix, the head's product is packed."""
        head = self.model.get_output_embeddings()
        if head is None:
            return
        if isinstance(self.prepared, GgufMatrices):
            return self._head_in_blocks(head)
        if not self.technique.packs_head():
            return
        name = next(n for n, m in self.model.named_modules() if m is head)
        self._place(name, self.technique.pack(head.weight.detach(), getattr(head, "bias", None)))

    def _head_in_blocks(self, head: nn.Module) -> None:
        names = {id(m): n for n, m in self.model.named_modules()}
        made = self.prepared.head(names[id(head)], names[id(self.model.get_input_embeddings())])
        if made is not None:
            self._place(names[id(head)], made)

    def _take(self, name: str, module: nn.Module, key: str, param: nn.Parameter) -> torch.Tensor:
        self._check()
        value = None if self.prepared is None else self.prepared.parameter(f"{name}.{key}")
        if value is None:
            value = self._tensors.get(name, module, key, param)
        self._done += param.numel() * param.element_size()
        floating = value.is_floating_point()
        moved = value.to(self.device, self.dtype if floating else value.dtype)
        return moved if moved.data_ptr() != 0 else moved.clone()

    def _buffers(self) -> None:
        for module in self.model.modules():
            if isinstance(module, Packed):
                continue
            for key, buffer in list(module._buffers.items()):
                if buffer is not None and not buffer.is_meta:
                    module._buffers[key] = buffer.to(self.device)

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled("loading was cancelled; nothing of the model was kept")

    def _tell(self, name: str) -> None:
        self.emit(Progress(what="load", done=self._done, total=self._total, detail=name))


def return_freed(device: torch.device) -> None:
    """Give freed heap back to the OS: glibc keeps it, and the next layer's pieces would not fit the
    holes between packed matrices."""
    if device.type == "cpu":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_matrix(module: nn.Module) -> bool:
    """What a weights technique packs: linear layers, and GPT-2's transposed ones."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def tensors_of(model: Any, settings: Settings, source: Source, prepared: Any = None
               ) -> _Random | _Stored:
    """What fills a skeleton, by tensor: ``get(name, module, key, param)``, ``close()``.

    ``prepared``: what holds matrices beside the checkpoint's own tensors. Raises ModelError where the
    checkpoint does not hold what the skeleton needs."""
    return (_Random(model, settings.seed) if source.random
            else _Stored(model, source, settings.model.allow_pickle, prepared))


def _prepared(settings: Settings, source: Source, device: torch.device, emit: Emit,
              cancelled: Callable[[], bool] | None) -> Any:
    """Codes of the matrices where they are known before loading: the checkpoint's own, or calibrated ones."""
    from workbench.quantized.read import File

    blocks = GgufMatrices.of(source, settings, device)
    if blocks is not None:
        return blocks
    stored = File.of(source)
    if stored is None:
        return settings.weights.prepare(settings, emit, cancelled)
    if settings.weights.name() not in ("bf16", "fp32"):
        stored.close()
        raise SettingsError(f"the model in {source.folder} is quantized already "
                            f"({stored.scheme.describe()}); set weights=bf16 to run it as it is, or open "
                            f"the original model to quantize it as {settings.weights.name()}")
    return stored


class _Random:
    """The architecture's own initialization, seeded per tensor, so that any layer can be redrawn."""

    converted = False

    def __init__(self, model: Any, seed: int) -> None:
        self._model, self._seed = model, seed
        self._std = float(getattr(model.config, "initializer_range", None) or 0.02)

    def get(self, name: str, module: nn.Module, key: str, param: nn.Parameter) -> torch.Tensor:
        seed = (self._seed + zlib.crc32(f"{name}.{key}".encode())) % 2**63
        if param.ndim > 1:
            generator = torch.Generator().manual_seed(seed)
            out = torch.empty(param.shape, dtype=torch.bfloat16 if param.dtype == torch.bfloat16
                              else torch.float32)
            return out.normal_(0.0, self._std, generator=generator)
        return self._vector(module, key, param)

    def _vector(self, module: nn.Module, key: str, param: nn.Parameter) -> torch.Tensor:
        """Norm scales are ones, or zeros where the architecture adds one itself; biases zeros."""
        if "bias" in key or "norm" not in type(module).__name__.lower():
            return torch.zeros(param.shape)
        value = nn.Parameter(torch.ones(param.shape), requires_grad=False)
        held, module._parameters[key] = module._parameters[key], value
        try:
            self._model._init_weights(module)
        finally:
            module._parameters[key] = held
        return value.detach()

    def close(self) -> None:
        pass


class _Stored:
    """Tensors of a checkpoint by the module's names; checked to be complete before the first read."""

    def __init__(self, model: Any, source: Source, allow_pickle: bool, prepared: Any = None) -> None:
        self._source, self.converted = source, False
        self._held = (lambda name: False) if prepared is None else prepared.holds
        self._pickled: dict[str, torch.Tensor] = {}
        self._files: Checkpoint | GgufCheckpoint = Checkpoint([])
        self._open(allow_pickle)
        names = set(self._files.entries) | set(self._pickled)
        self._prefix = _prefix(model, names)
        missing = self._missing(model, names)
        if missing and len(missing) < len(list(model.parameters())):
            self._convert(model)  # transformers knows how to rename and join tensors
        elif missing:
            self._refuse(model, missing)

    def _open(self, allow_pickle: bool) -> None:
        folder = self._source.folder
        if self._source.gguf is not None:
            self._files = GgufCheckpoint(self._source.gguf)
            return
        files = Checkpoint.open(folder)
        if files.entries or not allow_pickle:
            self._files = files
            return
        for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")):
            try:
                self._pickled.update(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
            except Exception as error:
                raise ModelError(f"{path} cannot be read as plain tensors ({type(error).__name__}); "
                                 "convert it to safetensors") from None

    def _missing(self, model: Any, names: set[str]) -> list[str]:
        """Parameters without a tensor. Tied ones are stored under any one of their names."""
        self._stored_name: dict[int, str] = {}
        for name, param in model.named_parameters(remove_duplicate=False):
            if self._prefix(name) in names or self._held(name.removesuffix(".weight")):
                self._stored_name.setdefault(id(param), name)
        return [n for n, p in model.named_parameters() if id(p) not in self._stored_name]

    def _refuse(self, model: Any, missing: list[str]) -> None:
        raise ModelError(f"the checkpoint in {self._source.folder} has no tensor {missing[0]!r} "
                         f"({len(missing)} of {len(list(model.parameters()))} are missing), so it is "
                         "damaged or belongs to another config")

    def _convert(self, model: Any) -> None:
        """Let transformers read a checkpoint whose tensors it names or stacks differently (experts).

        The whole checkpoint is then in memory while loading; ``converted`` says so."""
        try:
            whole, info = type(model).from_pretrained(
                self._source.folder, dtype=next(model.parameters()).dtype, local_files_only=True,
                output_loading_info=True, use_safetensors=not self._pickled)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise ModelError(f"transformers cannot read the checkpoint in {self._source.folder} "
                             f"({reason}); copy or download it again") from None
        if info["missing_keys"]:
            self._refuse(model, sorted(info["missing_keys"]))
        self._pickled = {n: p.detach() for n, p in whole.state_dict().items()}
        self._prefix, self.converted = (lambda name: name), True
        self._missing(model, set(self._pickled))

    def get(self, name: str, module: nn.Module, key: str, param: nn.Parameter) -> torch.Tensor:
        stored = self._prefix(self._stored_name.get(id(param)) or f"{name}.{key}")
        value = (self._pickled[stored].clone() if stored in self._pickled
                 else self._files.read(stored))
        if value.shape != param.shape:
            raise ModelError(f"tensor {stored!r} of {self._source.folder} is {list(value.shape)} and "
                             f"the config asks for {list(param.shape)}; they do not belong together")
        return value

    def close(self) -> None:
        self._files.close()
        self._pickled.clear()


def _prefix(model: Any, names: set[str]) -> Callable[[str], str]:
    """Some checkpoints hold the decoder without its prefix (``h.0...`` for ``transformer.h.0...``)."""
    base = model.base_model_prefix + "."
    wanted = [n for n, _ in model.named_parameters()]
    if any(n in names for n in wanted if n.startswith(base)):
        return lambda name: name
    if any(n.removeprefix(base) in names for n in wanted):
        return lambda name: name.removeprefix(base)
    return lambda name: name


# -- what was really done ------------------------------------------------------------------------


def _read_back(settings: Settings, loaded: Loaded, filler: Filler) -> dict[str, Effective]:
    found = [_weights_effective(settings, loaded, filler)]
    dtype = str(loaded.dtype).removeprefix("torch.")
    found.append(Effective(path="compute.device", requested=settings.compute.device,
                           effective=f"{loaded.device} ({dtype})"))
    found.append(Effective(path="model.source", requested=settings.model.source,
                           effective=f"{loaded.shape.architecture}, "
                                     f"{loaded.shape.parameters / 1e6:.4g} M parameters, "
                                     f"tokenizer: {loaded.tokenizer_name}{filler.stored}"))
    head = loaded.model.get_output_embeddings()
    tied = head is not None and getattr(head, "weight", None) is not None and \
        head.weight is loaded.model.get_input_embeddings().weight
    found.append(Effective(
        path="weights.head", requested="packed" if settings.weights.packs_head() else "kept",
        effective=head.kernel if isinstance(head, Packed)
        else f"{dtype}{', shared with the embedding' if tied else ''}"))
    if loaded.parked is not None:
        found += _tiers_effective(settings, loaded)
    return {e.path: e for e in found}


def _tiers_effective(settings: Settings, loaded: Loaded) -> list[Effective]:
    """Where parked layers really wait and how they are read; a window wider than they are many."""
    store, asked = loaded.parked.store, settings.tiers.to_dict()
    streamed = len(store.segments)
    found = [Effective(path="tiers.source", requested=str(asked.get("source", "auto")),
                       effective=f"{store.tier}, {streamed} layers, {format_bytes(store.nbytes)} "
                                 f"({store.how})" if streamed else "not used: all layers stay")]
    window = int(asked.get("window", 1))
    if window >= streamed:
        found.append(Effective(
            path="tiers.window", requested=str(window), effective=str(streamed),
            honoured=window == streamed, reason="" if window == streamed else
            f"only {streamed} layers are streamed, so each is read once and stays"))
    return found


def _weights_effective(settings: Settings, loaded: Loaded, filler: Filler) -> Effective:
    """Which kernels multiply, how many matrices, and what was left as it was."""
    kernels: dict[str, int] = {}
    for module in loaded.packed.values():
        kernels[module.kernel] = kernels.get(module.kernel, 0) + 1
    text = "; ".join(f"{n} matrices: {k}" for k, n in kernels.items())
    if filler.prepared is not None:
        text += f"; {filler.prepared.describe()}"
    plain = settings.weights.name() in ("bf16", "fp32")
    left = [] if plain else filler.left
    if filler.converted:
        text += "; the checkpoint was converted by transformers, whole in memory, while loading"
    return Effective(
        path="weights", requested=str(settings.weights), effective=text or "nothing packed",
        honoured=not left, reason="" if not left else
        f"{len(left)} stacked expert matrices stay {settings.weights.compute_dtype}")
