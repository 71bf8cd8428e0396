"""A pretended GPU: numbers in host memory, tensors that say they lie on ``cuda:0`` or ``cuda:1``.

Every tensor stays a plain ``torch.Tensor``. The device that it pretends to lie on is noted by its
*storage*, so views, parameters, ``.data`` and saved tensors agree by themselves. A dispatch mode
sees every operation below autograd, raises what a GPU raises where devices are mixed, and counts
what makes the host wait for a GPU, with the line of the package that asked for it.

Not seen here: how fast anything is, memory, TF32, kernels that are not deterministic, NCCL, and
whatever runs under ``torch.compile`` (which steps aside for a dispatch mode).
"""

import collections
import sys
from contextlib import contextmanager

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

_CPU = torch.device("cpu")
_memory = torch._C.TensorBase.device.__get__  # where a tensor really lies
_tags = {}  # storage -> (weak reference that keeps its number from being used again, device)
_limit = [20_000]
_active = []


def _names(words):
    return {f"aten::{word}" for word in words.split()}


# Operations whose result the host reads, or whose shape it has to know.
_READS = _names(
    "_local_scalar_dense is_nonzero equal nonzero masked_select _unique2 unique_dim bincount "
    "unique_consecutive repeat_interleave multinomial _linalg_check_errors _linalg_eigh linalg_eig"
)
_INDEX = _names("index _unsafe_index index_put index_put_ _index_put_impl_")
_ACROSS = _INDEX | {"aten::copy_", "aten::_to_copy", "aten::_copy_from"}
# Elementwise kernels take 0-dim CPU tensors as numbers; these have no tag that says so.
_SCALARS = _names(
    "where lerp masked_fill masked_fill_ clamp fill fill_ add sub mul div pow addcmul addcdiv "
    "_foreach_add_ _foreach_mul_ _foreach_div_"
)


def where(t):
    """Device that a tensor pretends to lie on."""
    found = None
    if _memory(t).type == "cpu" and _tags:
        found = _tags.get(t.untyped_storage()._cdata)
    return _memory(t) if found is None or found[0].expired() else found[1]


def _put(t, device):
    storage = t.untyped_storage()
    if device.type == "cpu":
        _tags.pop(storage._cdata, None)
        return t
    return _note(t, storage, device)


def _note(t, storage, device):
    _tags[storage._cdata] = (StorageWeakRef(storage), device)
    if len(_tags) > _limit[0]:
        for key in [key for key, (weak, _) in _tags.items() if weak.expired()]:
            del _tags[key]
        _limit[0] = max(20_000, 2 * len(_tags))
    return t


def _copy(t):
    with _disable_current_modes():
        return t.clone()


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, device):
        ctx.source = where(x)
        return _put(_copy(x.detach()), device)

    @staticmethod
    def backward(ctx, gradient):
        return _Move.apply(gradient, ctx.source), None  # can be differentiated again


class PretendedGPU(TorchDispatchMode):
    """Counters: ``waits`` by kind and line, ``ops`` by name of the operation."""

    def __init__(self, devices, package):
        super().__init__()
        self.devices, self.package, self.current = devices, f"/{package}/", 0
        self.waits, self.ops = collections.Counter(), collections.Counter()
        self.generators = [torch.Generator().manual_seed(77 + i) for i in range(devices)]
        self.inside, self.last = False, None

    @contextmanager
    def counting(self):
        """Yield a counter; after the block it holds the block's waits, by kind and line."""
        before, found = self.waits.copy(), collections.Counter()
        yield found
        found.update(self.waits - before)

    def full(self, device):
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if device.type != "cuda":
            return device
        index = self.current if device.index is None else device.index
        if index >= self.devices:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    def wait(self, kind):
        lines, frame = [], sys._getframe(1)
        while frame is not None and len(lines) < 3:
            name = frame.f_code.co_filename
            if self.package in name and "/site-packages/" not in name:
                lines.append(f"{name.rsplit(self.package, 1)[1]}:{frame.f_lineno}")
            frame = frame.f_back
        self.waits[kind, " < ".join(lines)] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func._schema.name
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if any(type(t).__name__ == "FakeTensor" for t in tensors):
            return func(*args, **kwargs)
        places = [where(t) for t in tensors]
        gpus = {place for place in places if place.type == "cuda"}
        device = next(iter(gpus), _CPU)
        if name in _INDEX:
            device = self._check_index(name, tensors, places)
        elif gpus and name not in _ACROSS:
            self._check_devices(func, name, tensors, places, device)
        if name in _READS and gpus:
            self.wait(name)
        if name == "aten::copy_":
            device = places[0]
            if places[1] != device:
                self.wait(f"copy {places[1].type} to {device.type}")
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = _CPU
            # Tensor.to is replaced below: this copy is C++'s, which asks for where the memory is,
            # as do the zeros that a backward formula makes.
            device = places[0] if name == "aten::_to_copy" else self.full(asked)
            if device == _CPU and torch._C._current_autograd_node() is not None:
                device = self.last or device
        elif device.type == "cuda" or any(t.dim() for t in tensors):
            self.last = device
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if device.type != "cuda":
            out = self._run(func, args, kwargs)
            if name == "aten::scalar_tensor":  # made by C++ for a number, where it is needed
                _note(out, out.untyped_storage(), _CPU)
            return out
        self.ops[name] += 1
        if torch.Tag.nondeterministic_seeded in func.tags:
            out = self._draw(device.index, func, args, kwargs)
        else:
            out = self._run(func, args, kwargs)
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and where(t) != device:
                _put(t, device)
        return out

    def _check_devices(self, func, name, tensors, places, device):
        takes = torch.Tag.pointwise in func.tags or name in _SCALARS
        written = name.endswith("_") or "mask" in name  # the result, and a mask, must be there
        for number, (t, place) in enumerate(zip(tensors, places, strict=True)):
            if place == device:
                continue
            fixed = (number == 0 and written) or (number == 1 and "mask" in name)
            if place != _CPU or t.dim() or not takes or fixed:
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two "
                    f"devices, {device} and {place}! ({func}, shape {tuple(t.shape)})"
                )
            if name == "aten::where" and t.untyped_storage()._cdata not in _tags:
                self.wait("copy of a number to cuda (where)")

    def _check_index(self, name, tensors, places):
        own, puts = places[0], "put" in name
        for t, place in list(zip(tensors, places, strict=True))[1 : len(tensors) - puts]:
            if place != own and place != _CPU:
                raise RuntimeError(
                    f"indices should be on cpu or on the indexed tensor's device ({own})"
                )
            if own != _CPU and place == _CPU and t.dim():
                self.wait("copy of an index")
            if own != _CPU and t.dtype == torch.bool:
                self.wait("nonzero (boolean index)")
        if puts and places[-1] != own and tensors[-1].dim():
            raise RuntimeError(f"values to put on {places[-1]}, the tensor on {own}")
        return own

    def _run(self, func, args, kwargs):
        self.inside = True  # kernels written in Python see where the memory is
        try:
            return func(*args, **kwargs)
        finally:
            self.inside = False

    def _draw(self, index, func, args, kwargs):
        """Draw from the GPU's own generator."""
        if kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        host, own = torch.default_generator, self.generators[index]
        saved = host.get_state()
        host.set_state(own.get_state())
        try:
            return self._run(func, args, kwargs)
        finally:
            own.set_state(host.get_state())
            host.set_state(saved)


@contextmanager
def counting():
    """Yield a counter of the waits on the pretended GPU that is there; an empty one without."""
    if not _active:
        yield collections.Counter()
        return
    with _active[-1].counting() as found:
        yield found


@contextmanager
def pretend(devices=2, package="pyro_vae"):
    """Pretend that this machine has GPUs; yields the counters."""
    gpu, T, cuda, kept = PretendedGPU(devices, package), torch.Tensor, torch.cuda, []

    def patch(owner, name, value):
        kept.append((owner, name, name in vars(owner), vars(owner).get(name)))
        setattr(owner, name, value)

    raw = {n: getattr(T, n) for n in ("to", "tolist", "numpy", "__array__", "new")}
    raw_tensor, raw_group = torch.tensor, torch.optim.Optimizer._group_tensors_by_device_and_dtype

    def to(self, *args, **kwargs):
        if type(self).__name__ == "FakeTensor":
            return raw["to"](self, *args, **kwargs)
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for a in args:
            if isinstance(a, T):
                device, dtype = where(a), a.dtype
            elif isinstance(a, torch.dtype):
                dtype = a
            elif isinstance(a, str | torch.device) or type(a) is int:
                device = a
        out = self if dtype is None else raw["to"](self, dtype)
        rest = {k: v for k, v in kwargs.items() if k in ("copy", "memory_format")}
        if device is None or gpu.full(device) == where(self):
            return raw["to"](out, out.dtype, **rest) if rest else out
        device = gpu.full(device)
        if device.type == "meta":
            return raw["to"](out, device)
        if not (kwargs.get("non_blocking") and device.type == "cuda"):
            gpu.wait(f"copy {where(self).type} to {device.type}")
        follow = out.requires_grad and torch.is_grad_enabled()
        return _Move.apply(out, device) if follow else _put(_copy(out.detach()), device)

    def tensor(data, *, device=None, requires_grad=False, **options):
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
            return raw_tensor(data, device=device, requires_grad=requires_grad, **options)
        if isinstance(data, T) and device is None:
            device = where(data)
        with _disable_current_modes():
            out = raw_tensor(data, **options)
        if device is not None and gpu.full(device).type == "cuda":
            gpu.wait("torch.tensor(value), copied to cuda")
            _put(out, gpu.full(device))
        return out.requires_grad_(requires_grad)

    def as_tensor(data, dtype=None, device=None):
        if not isinstance(data, T):
            return tensor(data, dtype=dtype, device=device)
        out = data if dtype is None else to(data, dtype)
        return out if device is None else to(out, device)

    def on_host(method, message):
        def call(self, *args, **kwargs):
            if where(self).type == "cuda":
                if message:
                    raise TypeError(message)
                gpu.wait("tolist")
                self = _copy(self.detach())
            return raw[method](self, *args, **kwargs)

        return call

    def grouped(lists, with_indices=False):  # C++ groups by where the memory is
        found = raw_group(lists, with_indices)
        return {(where(v[0][0][0]), key[1]): v for key, v in found.items()}

    def operator(name):  # autograd moves the gradient of a number of the host back to it
        plain = getattr(T, name)

        def call(self, other):
            pair = [self, other]
            if isinstance(other, T) and where(self) != where(other):
                there = next((where(t) for t in pair if where(t).type == "cuda"), _CPU)
                for place, t in enumerate(pair):
                    if where(t) == _CPU and t.dim() == 0 and t.requires_grad:
                        pair[place] = _Move.apply(t, there)
            return plain(*pair)

        return call

    def new(self, *args, **kwargs):
        return _put(raw["new"](self, *args, **kwargs), where(self))

    def new_tensor(self, data, *, device=None, dtype=None, **options):
        place = where(self) if device is None else device
        return tensor(data, dtype=dtype or self.dtype, device=place, **options)

    def shown(t):
        return _memory(t) if gpu.inside else where(t)

    def index(device="cuda"):
        return gpu.full(device).index

    def set_state(state, device="cuda"):
        gpu.generators[index(device)].set_state(state)

    refuse = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first."
    for owner, name, value in (
        (T, "device", property(shown)),
        (T, "is_cuda", property(lambda t: shown(t).type == "cuda")),
        (T, "is_cpu", property(lambda t: shown(t).type == "cpu")),
        (T, "to", to),
        (T, "type_as", lambda self, other: to(self, other)),
        (T, "cpu", lambda self, *a, **k: to(self, "cpu")),
        (T, "cuda", lambda self, device="cuda", *a, **k: to(self, device)),
        (T, "new", new),
        *(
            (T, f"__{name}__", operator(f"__{name}__"))
            for name in ("add", "radd", "sub", "mul", "rmul")
        ),
        (T, "new_tensor", new_tensor),
        (T, "pin_memory", lambda self, *a: self),
        (T, "tolist", on_host("tolist", "")),
        (T, "numpy", on_host("numpy", refuse)),
        (T, "__array__", on_host("__array__", refuse)),
        (torch, "tensor", tensor),
        (torch, "as_tensor", as_tensor),
        (torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(grouped)),
        (torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None),
        (torch.accelerator, "current_accelerator", lambda *a, **k: torch.device("cuda")),
        (cuda, "is_available", lambda: True),
        (cuda, "is_initialized", lambda: True),
        (cuda, "_lazy_init", lambda: None),
        (cuda, "device_count", lambda: devices),
        (cuda, "current_device", lambda: gpu.current),
        (cuda, "set_device", lambda device: setattr(gpu, "current", index(device))),
        (cuda, "synchronize", lambda *a: gpu.wait("synchronize")),
        (cuda, "manual_seed", lambda seed: gpu.generators[gpu.current].manual_seed(seed)),
        (cuda, "manual_seed_all", lambda seed: [g.manual_seed(seed) for g in gpu.generators]),
        (cuda, "get_rng_state", lambda device="cuda": gpu.generators[index(device)].get_state()),
        (cuda, "set_rng_state", set_state),
    ):
        patch(owner, name, value)
    try:
        _active.append(gpu)
        with gpu:
            yield gpu
    finally:
        _active.remove(gpu)
        for owner, name, own, value in reversed(kept):
            setattr(owner, name, value) if own else delattr(owner, name)
        _tags.clear()
