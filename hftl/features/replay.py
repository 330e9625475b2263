"""The part of a model that trains, run on stored activations of the part that does not.

The cut is the first leaf module, in the order of the calls, that is in train mode or has a parameter that trains:
everything before it depends on nothing that moves. A replay gives that module its stored input, has the modules before
it return zeros of the right shapes, and leaves the rest to the model's own ``forward``. The modules stay where they are
(many models read attributes of them); for the time of one forward pass their ``forward`` is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, Self

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hftl.errors import NotStoredError
from hftl.model.layers import modes_kept

MASK = "attention_mask"
"""The model's input that tells, of shape (rows, positions), which positions of a row are no padding."""
FEATURES = "features"
"""Under this name stored activations go into a ``Replay``."""


@dataclass(frozen=True)
class Shape:
    """Of a tensor as a function of the batch: each axis a number, or "rows", or "positions"."""

    axes: tuple[int | str, ...]
    dtype: torch.dtype
    device: torch.device

    def zeros(self, rows: int, positions: int) -> torch.Tensor:
        """A tensor of this shape that takes no memory."""
        sizes = {"rows": rows, "positions": positions}
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in self.axes]
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(shape)


@dataclass(frozen=True)
class Cut:
    """Where the trained part of a model begins, and what it takes to begin there."""

    module: str
    """Name of the first module of the trained part."""
    ragged: bool
    """Its input is of shape (rows, positions, …) where the batch is padded: it is stored without the padding."""
    needs_inputs: bool
    """Behind the cut the model looks at its own inputs again (GPT-2: where a row ends), so they have to be given."""
    shape: tuple[int, ...]
    """Of the stored input for one row, or for one position where it is ragged."""
    dtype: str
    live: tuple[str, ...]
    """Names of the leaf modules of the trained part."""
    outputs: dict[str, tuple[Any, ...]] = field(repr=False)
    """Module -> what it returns in each of its calls, a ``Shape`` for each tensor, of those that are not run."""
    inputs: dict[str, torch.Tensor] = field(repr=False)
    """A row of real inputs, shape (1, …), for those that need only be of the right kind."""


class Replay(nn.Module):
    """The model as a function of stored activations: ``replay(features=…)`` returns what ``model(**inputs)`` would.

    Its parameters are those of the model that train, the very same tensors. Where the cut needs inputs the model's own
    inputs are given as well. Modes are the model's.
    """

    model: Any

    def __init__(self, model: nn.Module, cut: Cut) -> None:
        super().__init__()
        vars(self)["model"] = model  # not as a child: what is frozen is none of DDP's business
        self.cut = cut
        trained = [m for m in model.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
        self.trained = nn.ModuleList(dict.fromkeys([*trained, *map(model.get_submodule, cut.live)]))
        self._modules_of = {name: model.get_submodule(name) for name in (cut.module, *cut.outputs)}

    def train(self, mode: bool = True) -> Self:
        """Put the model, and so this, into train or eval mode."""
        self.model.train(mode)
        self.training = mode
        return self

    def compile(self, *_: Any, **__: Any) -> None:
        """Heads are too small to gain anything, and their ``forward`` changes at every call."""

    def forward(self, features: torch.Tensor, **inputs: torch.Tensor) -> Any:
        """The model's outputs.

        Args:
            features: stored inputs of the cut, shape (rows, …), padded as the batch is where they are ragged.
            inputs: the model's own, where the cut needs them.
        """
        rows = len(features)
        given = inputs or {name: row.expand(rows, *row.shape[1:]) for name, row in self.cut.inputs.items()}
        with self._patched(features, rows, _positions(given)):
            return self.model(**given)

    @contextmanager
    def _patched(self, features: torch.Tensor, rows: int, positions: int) -> Iterator[None]:
        """Inside, the frozen modules return zeros, and the first call of the cut gets the features."""
        before = {module: vars(module).get("forward") for module in self._modules_of.values()}
        for name, outputs in self.cut.outputs.items():
            calls = chain(outputs, repeat(outputs[-1]))
            vars(self._modules_of[name])["forward"] = lambda *_, calls=calls, **__: _filled(
                next(calls), rows, positions
            )
        first = self._modules_of[self.cut.module]
        own = first.forward

        def entered(*given: Any, **named: Any) -> Any:
            _put_back(first, before[first])
            return _call(own, features, given, named)

        vars(first)["forward"] = entered
        try:
            yield
        finally:
            for module, forward in before.items():
                _put_back(module, forward)


def find_cut(model: nn.Module, batches: Sequence[dict[str, torch.Tensor]], needs_inputs: bool) -> Cut:
    """Where the trained part of ``model`` begins, by running two batches through it.

    Call it with the parameters and modes of the phase set; modes are the same afterwards.

    Args:
        model: on its device, as it computes in this run.
        batches: the model's inputs for two batches that differ in the number of rows and, where rows differ in length,
            in positions.
        needs_inputs: whether the model is to see its own inputs again behind the cut.

    Raises:
        NotStoredError: no module trains, or what is before the cut cannot be left out.
    """
    first, second = (_record(model, inputs) for inputs in batches)
    if first.cut != second.cut or [*first.returned] != [*second.returned]:
        raise NotStoredError("which modules it calls depends on the batch")
    sizes = [(len(r.entering), _positions(inputs)) for r, inputs in zip((first, second), batches, strict=True)]
    entering = _shape(first.entering, second.entering, sizes)
    masked = MASK in batches[0] and all(
        record.entering.shape[:2] == inputs[MASK].shape for record, inputs in zip((first, second), batches, strict=True)
    )
    if "positions" in entering.axes and not masked:
        raise NotStoredError(f"what goes into {first.cut} is padded in a way of its own")
    if entering.axes[0] != "rows":
        raise NotStoredError(f"what goes into {first.cut} has no axis of rows")
    shape = entering.axes[2:] if masked else entering.axes[1:]
    if not all(isinstance(size, int) for size in shape):
        raise NotStoredError(f"what goes into {first.cut} is not of one shape for all rows")
    if masked and not needs_inputs:
        raise NotStoredError("the padding is seen by the trained part")
    outputs = {}
    for name, calls in first.returned.items():
        if len(calls) != len(second.returned[name]):
            raise NotStoredError("how often it calls a module depends on the batch")
        pairs = zip(calls, second.returned[name], strict=True)
        outputs[name] = tuple(_shapes(one, other, sizes) for one, other in pairs)
    row = {name: tensor[:1].clone() for name, tensor in batches[0].items()}
    return Cut(
        module=first.cut,
        ragged=masked,
        needs_inputs=needs_inputs,
        shape=tuple(map(int, shape)),
        dtype=str(entering.dtype).removeprefix("torch."),
        live=tuple(_live(model)),
        outputs=outputs,
        inputs=row,
    )


def capture(model: nn.Module, cut: Cut, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What goes into the cut for these inputs, shape (rows, …), without gradient; the model is in eval mode then."""
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not found:
            found.append(_entering(given, named).detach().clone())  # it may be worked on in place from there on

    hook = model.get_submodule(cut.module).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            model.eval()(**inputs)
    finally:
        hook.remove()
    return found[0]


def draws_before(model: nn.Module, cut: Cut, inputs: dict[str, torch.Tensor]) -> bool:
    """Whether the model, in the modes of its phase, draws random numbers before the cut.

    A dropout that is no module does. The generators tell it where the rows do not, for a rare one spares most of them.
    """
    device = next(model.parameters()).device
    states = [_random_state(device)]
    hook = model.get_submodule(cut.module).register_forward_pre_hook(lambda *_: states.append(_random_state(device)))
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model(**inputs)
    finally:
        hook.remove()
    return not torch.equal(states[0], states[1])


def _random_state(device: torch.device) -> torch.Tensor:
    own = torch.get_rng_state()
    return torch.cat([own, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else own


# What a recording is made of.


@dataclass
class _Record:
    """One forward pass up to the cut."""

    cut: str
    entering: torch.Tensor
    returned: dict[str, list[Any]]
    """Module -> what each of its calls returned: the outermost modules that were done before the cut."""


def _live(model: nn.Module) -> list[str]:
    """Names of the leaf modules that are in train mode or have a parameter that trains."""
    return [
        name
        for name, module in model.named_modules()
        if not [*module.children()]
        and (module.training or any(parameter.requires_grad for parameter in module.parameters()))
    ]


def _record(model: nn.Module, inputs: dict[str, torch.Tensor]) -> _Record:
    live = _live(model)
    open_calls: list[list[tuple[str, Any]]] = [[]]
    """For each call that is not finished, from the outermost: what it has called."""
    found: list[_Record] = []
    later: set[str] = set()

    def enter(name: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if found:
            later.add(name)
        elif name in live:
            returned: dict[str, list[Any]] = {}
            for called, output in (pair for calls in open_calls for pair in calls):
                returned.setdefault(called, []).append(output)
            found.append(_Record(name, _entering(given, named).detach(), returned))
        open_calls.append([])

    def leave(name: str, output: Any) -> None:
        open_calls.pop()
        open_calls[-1].append((name, output))

    hooks = []
    for name, module in model.named_modules():
        hooks.append(
            module.register_forward_pre_hook(
                lambda _, given, named, name=name: enter(name, given, named), with_kwargs=True
            )
        )
        hooks.append(module.register_forward_hook(lambda _, __, output, name=name: leave(name, output)))
    try:
        with modes_kept(model), torch.no_grad():
            model.eval()(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise NotStoredError("none of its modules trains")
    record = found[0]
    # What is called again behind the cut has to work there.
    return _Record(record.cut, record.entering, {n: o for n, o in record.returned.items() if n not in later})


def _entering(given: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
    tensor = next((value for value in (*given, *named.values()) if isinstance(value, torch.Tensor)), None)
    if tensor is None or not tensor.ndim:
        raise NotStoredError("a module of the trained part takes no tensor")
    return tensor


def _call(function: Any, features: torch.Tensor, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Call it as it was called, with the features for its first tensor."""
    place = next((index for index, value in enumerate(given) if isinstance(value, torch.Tensor)), None)
    if place is not None:
        return function(*given[:place], features, *given[place + 1 :], **named)
    name = next(name for name, value in named.items() if isinstance(value, torch.Tensor))
    return function(*given, **{**named, name: features})


def _put_back(module: nn.Module, forward: Any) -> None:
    """Give a module the ``forward`` that was an attribute of its own before; None: its class's again."""
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward


def _positions(inputs: dict[str, torch.Tensor]) -> int:
    return inputs[MASK].shape[1] if MASK in inputs else 0


def _shape(one: torch.Tensor, other: torch.Tensor, sizes: list[tuple[int, int]]) -> Shape:
    """The shape that gives both tensors, one for each of the (rows, positions) in ``sizes``."""
    if one.ndim != other.ndim:
        raise NotStoredError("the shapes in it depend on the batch")
    rows, positions = zip(*sizes, strict=True)
    axes: list[int | str] = []
    for pair in zip(one.shape, other.shape, strict=True):
        if pair[0] == pair[1]:
            axes.append(pair[0])
        elif pair == rows:
            axes.append("rows")
        elif pair == positions:
            axes.append("positions")
        else:
            raise NotStoredError("the shapes in it depend on the batch")
    return Shape(tuple(axes), one.dtype, one.device)


def _shapes(one: Any, other: Any, sizes: list[tuple[int, int]]) -> Any:
    """What a call returned in both batches, with a ``Shape`` in place of each tensor."""
    leaves, structure = pytree.tree_flatten(one)
    others, same = pytree.tree_flatten(other)
    if structure != same:
        raise NotStoredError("what its modules return depends on the batch")
    shapes = [
        _shape(leaf, twin, sizes) if isinstance(leaf, torch.Tensor) else leaf
        for leaf, twin in zip(leaves, others, strict=True)
    ]
    return pytree.tree_unflatten(shapes, structure)


def _filled(output: Any, rows: int, positions: int) -> Any:
    return pytree.tree_map(
        lambda leaf: leaf.zeros(rows, positions) if isinstance(leaf, Shape) else leaf,
        output,
        is_leaf=lambda leaf: isinstance(leaf, Shape),
    )
