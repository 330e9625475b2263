"""Who makes the rows that features are of: so that features of rows that somebody else made are never taken."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import CodeType
from typing import Any


def maker_of(examples: Any) -> str:
    """A digest of the class of these examples, of the classes it derives from, and of what those do.

    Of hftl's own classes the name is enough, for their digests say the rest. Of others it is their code (not that of
    functions they call elsewhere) and the values of the fields that they add.
    """
    found = hashlib.blake2b(digest_size=10)
    for each in type(examples).__mro__[:-1]:
        found.update(f"{each.__module__}.{each.__qualname__}\n".encode())
        if not each.__module__.startswith("hftl.") and each.__module__ not in ("abc", "typing"):
            for said in _said(each, examples):
                found.update(said.encode("utf-8", "surrogatepass") + b"\n")
    return found.hexdigest()


def _said(of: type[Any], examples: Any) -> Iterator[str]:
    """What a class outside of hftl declares, and what its own fields hold."""
    for name, value in sorted(vars(of).items()):
        if not name.startswith("__") or callable(value):
            yield f"{name}: {_what(value)}"
    if is_dataclass(of):
        own = vars(of).get("__annotations__", {})
        yield from (f"{each.name} = {getattr(examples, each.name, None)!r}" for each in fields(of) if each.name in own)


def _what(value: Any) -> str:
    """What an attribute of a class does or is."""
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, functools.cached_property):
        value = value.func
    inner = getattr(value, "__wrapped__", getattr(value, "__func__", value))
    code = getattr(inner, "__code__", None)
    if code is None:
        return repr(value)
    enclosed = [cell.cell_contents for cell in inner.__closure__ or ()]
    return _of_code(code) + repr((inner.__defaults__, inner.__kwdefaults__, enclosed))


def _of_code(code: CodeType) -> str:
    """What a function does, wherever its file lies: instructions, names and constants."""
    constants = [_of_code(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def _constant(value: Any) -> str:
    """The same in every process: the order of a set is not."""
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
