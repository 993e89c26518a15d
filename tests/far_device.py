"""A device for machines without a GPU. Its tensors are the CPU's underneath, and an operation over tensors of two
devices raises, as on a GPU. Importing it changes torch for the process.

WAITS names what a program would have waited for a GPU for: a number, a size that only the values tell, a copy that does
not come from pinned memory. DOUBLE names the products that ran in double precision.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "far"
WAITS: list[str] = []
DOUBLE: set[str] = set()
TELL = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}
COPIES = {"_to_copy", "copy_"}
_setup_privateuseone_for_python_backend(NAME)


def _inference_mode(mode: bool = True) -> torch.no_grad | torch.enable_grad:
    """In place of torch.inference_mode, which such tensors cannot enter."""
    return torch.no_grad() if mode else torch.enable_grad()


torch.inference_mode = _inference_mode  # type: ignore[misc, assignment]
torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to cannot change a tensor's class in place


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    """The values in memory that counts as pinned."""
    copy = tensor.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy


torch.Tensor.pin_memory = _pin  # type: ignore[method-assign, assignment]


class Far(torch.Tensor):
    """A tensor on the device, with its values on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    here: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor, requires_grad: bool = False) -> Far:
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        wrapper.here = values
        return wrapper

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(operation, *args, **(kwargs or {}))


def run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on the values, with its result where a GPU would have it. Raises RuntimeError for two devices; a
    number in a CPU tensor without dimensions may go along, as to a GPU."""
    name, device = operation._schema.name.removeprefix("aten::"), kwargs.get("device")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    near = [tensor for tensor in tensors if not isinstance(tensor, Far)]
    if name not in COPIES and far and any(tensor.dim() for tensor in near):
        raise RuntimeError(f"{name}: tensors of two devices, {NAME} and cpu")
    if waits(name, far, near, args, kwargs):
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack() if "trainer" in f.filename]
        WAITS.append(f"{name} at {' '.join(ours[-1:])}")
    if far and name in ("mm", "bmm", "addmm", "baddbmm") and far[0].dtype == torch.double:
        DOUBLE.add(name)
    args, kwargs = tree_map(_values, (args, kwargs))
    there = bool(far) if name != "copy_" else isinstance(tensors[0], Far)
    if device is not None:
        there, kwargs["device"] = torch.device(device).type == NAME, "cpu"
    kwargs.pop("pin_memory", None)
    result = operation(*args, **kwargs)
    own = {id(tensor.here): tensor for tensor in far}  # what an operation changes in place stays itself
    return tree_map(lambda x: own.get(id(x), Far(x)) if isinstance(x, torch.Tensor) else x, result) if there else result


def waits(name: str, far: list[Far], near: list[torch.Tensor], args: Any, kwargs: Any) -> bool:
    """Whether a GPU would have to be waited for. An index by a mask has a size that only the mask's values tell."""
    if name in COPIES and (near or torch.device(kwargs.get("device") or NAME).type != NAME):
        pinned = all(getattr(tensor, "pinned", False) for tensor in near)
        return not (pinned and (kwargs.get("non_blocking") or args[-1] is True))
    masks = name.startswith("index") and any(t.dtype == torch.bool for t in tree_leaves(args[1]) if isinstance(t, Far))
    return bool(far) and (name in TELL or masks)


def _values(leaf: Any) -> Any:
    return leaf.here if isinstance(leaf, Far) else leaf


_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda operation, *args, **kwargs: run(operation, *args, **kwargs), "PrivateUse1")
