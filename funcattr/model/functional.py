"""Models as pure functions of their parameters and inputs."""

import copy
import difflib
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .._torch import (
    RANDOM_IN_TRAINING,
    TENSOR_TABLES,
    gathered,
    has_global_hooks,
    has_hooks,
    is_sharded,
    names_of_memory,
    one_of_mapped,
    outside_the_pass,
    pytree,
)
from ..agreement import same_numbers
from ..batch import repeated
from ..copies import Copier
from ..errors import UnsupportedOperationError, unknown_site
from ..torch_state import is_plain_eager
from .aliased import Group, aliased_groups, cloned
from .attention_weights import shown_weights
from .editing import CallEdit, Editor, edited
from .folding import Folding, Folds
from .guard import Guard, guarded
from .module_tree import CallCopier, Part, TreeCopier, end_call, parts_of, sited_copy
from .offloading import has_device_hooks
from .refusals import refuse_opaque
from .sharding import packed
from .sites import site_modes
from .wrappers import unwrapped

T = TypeVar("T")
Params = Mapping[str, Tensor]
Edits = Mapping[str, Callable[[Any], Any] | CallEdit]
Site = str | nn.Module
"""A site: its name, or the module whose output it is."""


class Structure:
    """A functional model without its tensors: the module tree or callable, and edits of sites.

    A constant of compiled code.

    Attributes:
        model: The module or callable. Calls of a module copy its tree.
        edits: Site to a function of its value.
        params, buffers: The model's own tensors by their first names.
        places: Each place of a tensor in the tree to the tensor's name; tied tensors have several places.
        folds: What is known of its batch norms, where they are folded into the linear maps before them.
        sites: Names of the sites.
        training: Whether some module's output depends on the batch or on chance.
        traced: Whether it was made inside compiled code, which takes no such constant.
        aliased: Names of tensors that share memory.
        in_params: Names of buffers that are views of a parameter.
        user_modules: The user's modules of which `model` has copies, by name; None where it has none.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        edits: Edits | None = None,
        parts: tuple[Part, ...] | None = None,
        user_modules: Mapping[str, "weakref.ref[nn.Module]"] | None = None,
    ) -> None:
        self.model, self.edits, self._parts = model, dict(edits or {}), parts
        self.traced = torch.compiler.is_dynamo_compiling()
        self.params: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.places: dict[str, str] = {}
        self.folds: Folds | None = None
        modules = tuple(model.named_modules()) if isinstance(model, nn.Module) else ()
        self.sites = tuple(name for name, _ in modules if name)
        self.training = any(m.training and isinstance(m, RANDOM_IN_TRAINING) for _, m in modules)
        self.hooked = any(has_hooks(m) for _, m in modules)
        self.moves_inputs = not self.traced and has_device_hooks(model)
        self.user_modules = user_modules
        self.sharded = {} if self.traced else {id(p.module): p.sharding for p in self.parts if p.sharding}
        self.is_laid_out = any(sharding.by_layout for sharding in self.sharded.values())
        self.compared = _compared_of(self) if self.is_laid_out else set()
        names: dict[int, str] = {}
        for path, module in modules:
            self._name_tensors(f"{path}." if path else "", module, names)
        if self.traced and any(map(is_sharded, (*self.params.values(), *self.buffers.values()))):
            raise _sharded_in_compiled_code()
        self.aliased: tuple[Group, ...] = aliased_groups(self.params, self.buffers)
        self.in_params = tuple(b for group in self.aliased if group[0] in self.params for b in group[1:])

    def named_modules(self) -> Iterator[tuple[str, nn.Module | None]]:
        """The user's modules as they were when the model was functionalised; None for one that is gone."""
        if self.user_modules is not None:
            yield from ((name, module()) for name, module in self.user_modules.items())
        elif isinstance(self.model, nn.Module):
            yield from self.model.named_modules()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The modules of the tree; none of a callable."""
        if self._parts is None:
            self._parts = parts_of(self.model) if isinstance(self.model, nn.Module) else ()
        return self._parts

    def _name_tensors(self, prefix: str, module: nn.Module, names: dict[int, str]) -> None:
        sharding = self.sharded.get(id(module))
        for own, table in zip((self.params, self.buffers), TENSOR_TABLES, strict=True):
            held = vars(module)[table]
            for name, tensor in (held if sharding is None else {**held, **sharding.shards(held)}).items():
                if tensor is not None:
                    self.places[prefix + name] = first = names.setdefault(id(tensor), prefix + name)
                    own.setdefault(first, tensor)

    def __reduce__(self) -> Any:
        model = self._copied()
        if isinstance(model, nn.Module):  # as the user's: what a copy adds to it cannot be pickled
            model = sited_copy(self.parts, TreeCopier(_the_same, {}), sited=False)[0].module
        return _restored, (model, self.edits, self.folds is not None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Structure":
        model = self._copied()
        if isinstance(model, nn.Module):
            model = sited_copy(self.parts, TreeCopier(_cloned, {}), sited=False)[0].module
        return _restored(model, self.edits, self.folds is not None)

    def _copied(self) -> Any:
        """The model, to be copied or pickled."""
        if self.sharded:
            raise UnsupportedOperationError(
                "FunctionalModel: a sharded model can neither be copied nor pickled. Functionalize it where it is used."
            )
        return self.model

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


pytree.register_constant(Structure)


class FunctionalModel:
    """A model as a stateless function: `fm(x)`, `fm.apply(params, x)`, `fm.bind(params)(x)`.

    Made by `functionalize`. The structure is as it was then; parameters are the same tensors, so an optimiser's
    steps are seen. Parameters that are not bound are constants: no gradient flows to them. Buffers are copied for
    the call, so nothing of the user's model is ever written.
    """

    def __init__(
        self,
        structure: Structure,
        bound: Params | None = None,
        ready: dict[str, Tensor] | None = None,
        shifts: Params | None = None,
    ) -> None:
        self.structure, self._ready = structure, ready
        self.bound = dict(bound or {})
        self.shifts = dict(shifts or {})
        self._whole = False

    @property
    def _model(self) -> Callable[..., Any]:
        return self.structure.model

    @property
    def params(self) -> dict[str, Tensor]:
        """Parameters by qualified name: the bound ones, else the model's own."""
        return {name: self.bound.get(name, p) for name, p in self.structure.params.items()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Buffers by qualified name: the bound ones, else the model's own."""
        return {name: self.bound.get(name, b) for name, b in self.structure.buffers.items()}

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the values that can be read, edited or made the root: the outputs of all modules."""
        return self.structure.sites

    @property
    def training(self) -> bool:
        """Whether a batch norm or dropout module was in training mode when the model was functionalised."""
        return self.structure.training

    @property
    def has_hooks(self) -> bool:
        """Whether forward hooks see the values that a call computes."""
        return self.structure.hooked or has_global_hooks()

    @property
    def is_spread(self) -> bool:
        """Whether tensors of the model are spread over processes, or kept elsewhere until they are read."""
        return bool(self.structure.sharded)

    @property
    def moves_inputs(self) -> bool:
        """Whether inputs need not be where the parameters are: those are gathered, or accelerate moves the inputs."""
        return self.is_spread or self.structure.moves_inputs

    def site_name(self, call: str, site: Any, argument: str = "layer") -> str:
        """The name of a site that is given by its name, or by the module whose output it is.

        Raises:
            TypeError: If it is neither.
            ValueError: If the module is not one of the model's, or it is a pattern.
        """
        if isinstance(site, str):
            if self.is_pattern(site):
                raise ValueError(
                    f"{call}({argument}={site!r}): a pattern means several sites. Give it in a list: "
                    f"{argument}=[{site!r}]."
                )
            return site
        if not isinstance(site, nn.Module):
            raise TypeError(
                f"{call}({argument}=...): expected the name of a site or a module of the model, "
                f"got {type(site).__name__}."
            )
        for name, module in self.structure.named_modules():
            if module is site and name:
                return name
        raise ValueError(
            f"{call}({argument}=<{type(site).__name__}>): the module is not one of the model's. "
            "Give the name of the site; functionalize(model).sites lists them."
        )

    def site_names(self, call: str, sites: Site | Sequence[Site], argument: str = "layer") -> tuple[str, ...] | None:
        """The names of several sites, in the order given, those of a pattern in that of the modules; None for one site.

        A pattern of names of modules is an item of the list. In it `*` stands for one name of a path, or a part of it:
        "layers.*.mlp", "block*.attn@input". A name that the model has is no pattern.

        Raises:
            TypeError: If something is no site.
            ValueError: If there are none, or one is given twice.
            UnknownSiteError: If a pattern matches nothing.
        """
        if isinstance(sites, str) or not isinstance(sites, Sequence):
            return None
        names: list[str] = []
        for site in sites:
            if isinstance(site, str) and self.is_pattern(site):
                names += self._matching(call, site, argument)
            else:
                names.append(self.site_name(call, site, argument))
        if not names:
            raise ValueError(f"{call}({argument}={sites!r}): expected at least one site.")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{call}({argument}=...): the site {name!r} is given twice.")
        return tuple(names)

    def is_pattern(self, site: str) -> bool:
        """Whether a name stands for the names of several modules: it has a `*`, and the model has no such name."""
        return "*" in site and bool(self.sites) and _module_of(site)[0] not in self.sites

    def _matching(self, call: str, pattern: str, argument: str) -> tuple[str, ...]:
        module, rest = _module_of(pattern)
        names = re.compile(re.escape(module).replace(r"\*", "[^.]*"))
        found = tuple(name + rest for name in self.sites if names.fullmatch(name))
        if not found:
            raise unknown_site(f"{call}({argument}=...)", pattern, self.sites)
        return found

    def by_site(self, call: str, given: Mapping[Any, T], argument: str) -> dict[str, T]:
        """A mapping by the names of its sites; what is given for a pattern holds for each of its sites.

        Raises:
            TypeError, ValueError: As in `site_name`; and if two keys are the same site.
        """
        named: dict[str, T] = {}
        for site, value in given.items():
            for name in self.site_names(call, [site], argument) or ():
                if name in named:
                    raise ValueError(f"{call}({argument}=...): the site {name!r} is given twice.")
                named[name] = value
        return named

    def bind(self, params: Params) -> "FunctionalModel":
        """The same model with some parameters or buffers replaced (stacked ones under `vmap`).

        Tied tensors have one value, under any of their names; the last one given counts, as in `load_state_dict`.

        Raises:
            ValueError: If a name is not one of the model's (with the closest names).
        """
        names: Mapping[str, str] = self.structure.places
        if any(name not in names for name in params):
            names = _every_name(self._model)
        for name in params:
            if name not in names:
                raise _unknown_parameter(name, names)
        for name, value in params.items():
            if is_sharded(value):
                raise ValueError(
                    f"FunctionalModel.bind(params=...): expected the whole of {name!r}, got a DTensor, one process's "
                    "part of it. Give tensor.full_tensor()."
                )
        if self.structure.sharded:
            for name in params:
                self._refuse_elsewhere(name, self.structure.params.get(names[name]))
        bound = {**self.bound, **{names[name]: p for name, p in params.items()}}
        return FunctionalModel(self.structure, bound, shifts=self.shifts)

    def _refuse_elsewhere(self, name: str, own: Tensor | None) -> None:
        if own is not None and own.is_meta:
            raise UnsupportedOperationError(
                f"FunctionalModel.bind(params=...): {name!r} is offloaded by accelerate, so that nobody can tell which "
                "other parameters are tied to it. Bind before the model is offloaded."
            )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a call computes with: bound ones as they are, owned ones as constants, buffers copied."""
        if self._ready is not None:
            return self._ready
        bound = {name: value for name, value in self.bound.items() if name in self.structure.params}
        own = {name: p for name, p in self.structure.params.items() if name not in bound}
        params = {**names_of_memory(own), **bound}
        buffers = {name: b if name in self.bound else b.detach() for name, b in self.buffers.items()}
        return params | cloned(buffers, params, self.structure.aliased, self.bound)

    def ready(self) -> "FunctionalModel":
        """The same model for one call, whose tensors are made now and not under the eyes of a recorder."""
        return FunctionalModel(self.structure, self.bound, self.tensors(), self.shifts)

    def in_one_piece(self) -> "FunctionalModel":
        """The same model of a module, for a pass that is not recorded: linear maps of strided tokens in one piece."""
        model = FunctionalModel(self.structure, self.bound, self._ready, self.shifts)
        model._whole = True
        return model

    def apply(self, params: Params, *inputs: Any, **kwargs: Any) -> Any:
        """The model's output at `inputs` with `params` in place of its own; parameters not named stay."""
        return self.bind(params)(*inputs, **kwargs)

    def edited(self, edits: Edits) -> "FunctionalModel":
        """The same model with the values at some sites replaced; see `edit`."""
        before = self.structure.edits
        both = {name: _then(before[name], change) if name in before else change for name, change in edits.items()}
        structure = Structure(self._model, {**before, **both}, user_modules=self.structure.user_modules)
        structure.folds = self.structure.folds
        return FunctionalModel(structure, self.bound, shifts=self.shifts)

    def shifted(self, shifts: Params) -> "FunctionalModel":
        """The same model with a tensor added to the values at some sites, after its edits.

        Unlike an edit's closure the tensors are data, which can be made inside compiled code. Where a method runs
        copies of the examples (neighbours, as in `repeated`), each gets its example's.
        """
        before = self.shifts
        both = {site: _copies(before[site], len(t)) + t if site in before else t for site, t in shifts.items()}
        return FunctionalModel(self.structure, self.bound, self._ready, {**self.shifts, **both})

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        edits = self.structure.edits
        if not edits and not self.shifts:
            return self._call(inputs, kwargs)
        shifts = {site: _shift(site, tensor) for site, tensor in self.shifts.items()}
        both = {name: _then(edits[name], shift) if name in edits else shift for name, shift in shifts.items()}
        is_module = isinstance(self._model, nn.Module)  # a function may hold anything
        held = not is_module or any(t.requires_grad for t in self.bound.values())
        editor = Editor({**edits, **both}, held)
        with editor:
            output = self._call(inputs, kwargs)
        editor.require("edit", tuple(editor.edits), self.sites)
        return editor.finished(output)

    def _call(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(self._model, nn.Module):
            with shown_weights():
                return self._model(*inputs, **kwargs)
        tensors = self.tensors()
        if torch.compiler.is_dynamo_compiling():
            # Each place is named: left to tie weights itself, functional_call does not put all back when it is traced.
            filled = {place: tensors[name] for place, name in self.structure.places.items()}
            # Modules cannot be copied while Dynamo traces; there functional_call swaps at trace time only.
            with shown_weights():
                return functional_call(self._model, filled, inputs, kwargs, tie_weights=False)
        folds = self.structure.folds
        folding = None
        if folds is not None and not has_global_hooks():
            folding = folds.begin(self._run, tensors, self.bound, inputs, kwargs)
        if folding is None:
            return self._run(tensors, inputs, kwargs)
        return folding.finished(self._run(tensors, inputs, kwargs, folding))

    def _run(
        self,
        tensors: dict[str, Tensor],
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        folding: Folding | None = None,
    ) -> Any:
        """One call of a copy of the module tree that has these tensors."""
        structure, owned = self.structure, {**self.structure.params, **self.structure.buffers}
        if structure.is_laid_out:
            self._check_layouts(inputs, kwargs)
        shared = [tensors[name] for name in (*structure.params, *structure.in_params) if name not in self.bound]
        copier = CallCopier({id(t): tensors[name] for name, t in owned.items() if name in tensors})
        parts = sited_copy(structure.parts, copier)
        folded = None if folding is None else tensors
        guard = Guard({**owned, **copier.users}, [*shared, *copier.shared], self.bound, folded)
        if folding is not None:
            folding.touched = guard.touched
        try:
            with guarded(guard, self._whole, folding), shown_weights(), self._packed(parts):
                output = parts[0].module(*inputs, **kwargs)
            guard.check()
            return output
        finally:
            end_call(parts)

    def _packed(self, parts: tuple[Part, ...]) -> AbstractContextManager[None]:
        """Where autograd alone takes the derivative: what it saves of gathered tensors can be gathered again."""
        if not self.structure.sharded or not torch.is_grad_enabled() or not is_plain_eager():
            return nullcontext()
        if any(mode.saves for mode in site_modes()):
            return nullcontext()
        return packed(part.module for part in parts if part.sharding is not None)

    def _check_layouts(self, inputs: Any, kwargs: Any) -> None:
        """Compare the model as it runs on parts of tensors with its copy on whole ones, once for each form of inputs.

        Raises:
            UnsupportedOperationError: If they differ, so that the parts mean something else than the whole.
        """
        leaves = [
            (v.shape, v.dtype) if isinstance(v, Tensor) else type(v) for v in pytree.tree_leaves((inputs, kwargs))
        ]
        if tuple(leaves) in self.structure.compared:
            return
        with outside_the_pass(), torch.random.fork_rng(devices=[]):
            inputs, kwargs = pytree.tree_map_only(Tensor, one_of_mapped, (inputs, kwargs))
            by_parts, whole = (self._as_it_is(gathers, inputs, kwargs) for gathers in (False, True))
            by_parts = pytree.tree_map(lambda v: gathered(v) if is_sharded(v) else v, by_parts)
        outputs = [pytree.tree_leaves(output) for output in (by_parts, whole)]
        kinds = [[Tensor if isinstance(v, Tensor) else type(v) for v in output] for output in outputs]
        if kinds[0] != kinds[1] or not same_numbers(by_parts, whole, size=0.0):
            raise UnsupportedOperationError(
                "functionalize(model=...): on its parts of tensors (parallelize_module) the model gives another output "
                "than on whole ones, so that nobody can say what its whole is. Its inputs may be parts themselves, its "
                "forward may count on parts (a number of heads for each process), or it draws at random (eval())."
            )
        self.structure.compared.add(tuple(leaves))

    def _as_it_is(self, gathers: bool, inputs: Any, kwargs: Any) -> Any:
        """The output of a copy that no mode sees, whose sharded tensors are gathered or not."""
        structure, tensors = self.structure, FunctionalModel(self.structure).tensors()
        owned = {**structure.params, **structure.buffers}
        copier = TreeCopier(torch.clone, {id(t): tensors[name] for name, t in owned.items()})
        copier.gathers = gathers
        given = Copier(torch.clone)
        model = sited_copy(structure.parts, copier, sited=False)[0].module
        return model(*given(inputs), **given(kwargs))

    def __repr__(self) -> str:
        return f"FunctionalModel({type(self._model).__name__}, {len(self.params)} parameters, {len(self.sites)} sites)"


def functionalize(model: Callable[..., Any], *, fold: bool = False) -> FunctionalModel:
    """Turn a module, or any callable, into a `FunctionalModel`.

    With `fold`, batch norms in eval mode run as part of the linear maps before them, forward and backward:

    w' = s w, b' = s b + t, with s = gamma / sqrt(var + eps), t = beta - s mean

    A batch norm is folded where it alone reads the result of a linear layer or convolution. That is told by the data
    flow of the model, at its first call, whatever its modules are; other batch norms stay. Where a call asks for the
    value between the two (`layer=`, `read`, `edit`), they run apart.

    Args:
        model: An `nn.Module` of any kind, or a pure callable of tensors. It is not modified.
        fold: Whether to fold. The result then has tensors of its own: what happens to the model's later does not reach
            it. Its first call runs the model twice. In compiled code the model's own forward runs as it is; methods
            fold there too.

    Returns:
        A stateless function with named parameters and sites.

    Raises:
        TypeError: If `model` is not callable; if what is to be folded is no module.
        UnsupportedOperationError: If a submodule is scripted, compiled or patched, so that nothing can be seen in it;
            if what is to be folded is sharded.
        ValueError: From a call of the result, if there is nothing to fold.
        FuncattrError: From a call of the result, if the model reads the value between the two in another way than by
            the batch norm, which at its first call it did not.

    Example:
        >>> import torch, funcattr
        >>> fm = funcattr.functionalize(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))
        >>> fm.sites, sorted(fm.params), fm(torch.ones(1, 2)).shape
        (('0', '1'), ['0.bias', '0.weight'], torch.Size([1, 3]))
    """
    fm = _functional(model, snapshot=True)
    return _folding(fm) if fold else fm


def as_functional(model: Callable[..., Any]) -> FunctionalModel:
    """As `functionalize`, for the time of one call of a method: the module tree is read as it is, not copied twice."""
    return _functional(model, snapshot=False)


def part_of(model: FunctionalModel, module: nn.Module) -> FunctionalModel:
    """One of the user's modules as a function, gathered as in the whole model; nothing is compared.

    Raises:
        ValueError: If it is not one of the model's.
    """
    name = model.site_name("functionalize", module)
    within = [p for p in model.structure.parts if p.name == name or p.name.startswith(f"{name}.")]
    parts = tuple(p._replace(name=p.name[len(name) + 1 :]) for p in within)
    structure = Structure(parts[0].module, parts=parts)
    structure.is_laid_out = False
    return FunctionalModel(structure)


def _functional(model: Callable[..., Any], snapshot: bool) -> FunctionalModel:
    if isinstance(model, FunctionalModel):
        return model
    if not snapshot and torch.compiler.is_dynamo_compiling() and isinstance(model, nn.Module):
        return FunctionalModel(Structure(model))  # a method there is one node of the graph, which makes its copy
    model = unwrapped(model)
    if not callable(model):
        raise TypeError(f"functionalize(model=...): expected a module or a callable, got {type(model).__name__}.")
    refuse_opaque(model)
    if not isinstance(model, nn.Module):
        return FunctionalModel(Structure(model))
    parts = parts_of(model)
    if not snapshot:
        return FunctionalModel(Structure(model, parts=parts))
    copies, before = (
        sited_copy(parts, TreeCopier(_the_same, {})),
        {part.name: weakref.ref(part.module) for part in parts},
    )
    return FunctionalModel(Structure(copies[0].module, parts=copies, user_modules=before))


def _folding(fm: FunctionalModel) -> FunctionalModel:
    """The same model with tensors of its own, and its batch norms folded."""
    before = fm.structure
    if not isinstance(before.model, nn.Module):
        raise TypeError("functionalize(fold=True): expected a module, or a FunctionalModel of one.")
    if before.sharded:
        raise UnsupportedOperationError(
            "functionalize(fold=True): the model's parameters are spread over processes, or kept elsewhere. Fold "
            "before it is sharded, or leave it out."
        )
    own = {**before.params, **before.buffers}
    tensors = fm.bind({name: t.detach().clone() for name, t in {**fm.params, **fm.buffers}.items()}).tensors()
    copier = TreeCopier(_cloned, {id(t): tensors[name] for name, t in own.items()})
    parts = sited_copy(parts_of(before.model), copier)
    structure = Structure(parts[0].module, before.edits, parts, before.user_modules)
    hooked = frozenset(part.name for part in parts if has_hooks(part.module))
    structure.folds = Folds({**structure.params, **structure.buffers}, hooked)
    return FunctionalModel(structure, shifts=fm.shifts)


def _the_same(tensor: Tensor) -> Tensor:
    return tensor


def _cloned(tensor: Tensor) -> Tensor:
    """A copy of the same class: a parameter's is one."""
    return copy.deepcopy(tensor)


def _restored(model: Any, edits: Edits, fold: bool) -> Structure:
    """A structure from what `pickle` and `copy` take of one."""
    structure = functionalize(model, fold=fold).structure
    structure.edits = dict(edits)
    return structure


def _then(first: Any, second: Any) -> Any:
    if isinstance(first, CallEdit) or isinstance(second, CallEdit):
        return CallEdit(lambda value, notes: edited(second, edited(first, value, notes), notes))
    return lambda value: second(first(value))


def _shift(site: str, by: Tensor) -> Callable[[Any], Any]:
    def shifted(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape[1:] != by.shape[1:] or len(value) % len(by) != 0:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the site {site!r}: expected a value of shape {list(by.shape)} to add to, got {got}.")
        return value + _copies(by, len(value))

    return shifted


def _copies(examples: Tensor, count: int) -> Tensor:
    """A tensor for each example, for `count` copies of them. [N, ...] -> [count, ...]"""
    return repeated(examples, len(examples), count // len(examples))


_compared: "weakref.WeakKeyDictionary[nn.Module, set[Any]]" = weakref.WeakKeyDictionary()


def _compared_of(structure: Structure) -> set[Any]:
    """The forms of inputs on which a model that runs on parts of tensors was compared with its whole."""
    users = structure.user_modules
    root = structure.model if users is None else users[""]()
    return _compared.setdefault(root, set()) if isinstance(root, nn.Module) else set()


def _sharded_in_compiled_code() -> UnsupportedOperationError:
    return UnsupportedOperationError(
        "functionalize(model=...): a sharded model cannot be gathered inside torch.compile. Call funcattr outside of "
        "it."
    )


def _module_of(site: str) -> tuple[str, str]:
    """The path of the module in the name of a site, and what follows: "c#4@input" is "c" and "#4@input"."""
    end = re.search("[#@:]", site)
    return (site, "") if end is None else (site[: end.start()], site[end.start() :])


def _every_name(model: Callable[..., Any]) -> dict[str, str]:
    """Every name of a parameter or buffer, those by way of a shared module too, to the first name of the tensor."""
    if not isinstance(model, nn.Module):
        return {}
    first: dict[int, str] = {}
    every = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(tensor), name) for name, tensor in every}


def _unknown_parameter(name: str, known: Mapping[str, str]) -> ValueError:
    closest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:3]
    listed = ", ".join(map(repr, closest)) or "none, the model has no tensors"
    return ValueError(
        f"FunctionalModel.bind(params=...): no such parameter or buffer {name!r}. Closest: {listed}. "
        "List them with functionalize(model).params and .buffers."
    )
