"""Everything public has a docstring, which names what one passes to it.

The rules: a package's docstring names what it exports. Each exported name, and each public member of an exported class,
has a docstring; a member may have that of the method that it overrides, also of a class of Python's or Tornado's. What
is neither a class nor a function has it as a string below its assignment, or is named in that of its class. A docstring
of ours names each parameter or dataclass field, as in ``:arg name:``, ``*name*`` or `` `name` ``; that of a method may
leave this to the docstring of its class. Nobody but the package itself makes sessions and errors, so their classes need
not say what they are made of.
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from itertools import pairwise

import pytest
from tornado.websocket import WebSocketHandler

import tornado_sesame
import tornado_sesame.stores
import tornado_sesame.testing
from tornado_sesame import SessionMixin
from tornado_sesame.testing import StoreContract
from tornado_sesame.values import SessionContainer

PACKAGES = (tornado_sesame, tornado_sesame.stores, tornado_sesame.testing)

EXPORTED = {name: getattr(package, name) for package in PACKAGES for name in package.__all__}


class Handler(SessionMixin, WebSocketHandler):
    """What a mixin is when it is used."""


def is_ours(thing):
    return thing.__module__.startswith("tornado_sesame")


def public_members():
    """Yields each class of ours with the names of its public members, its own and inherited ones."""
    for kind in filter(inspect.isclass, EXPORTED.values()):
        names = {name for base in kind.__mro__ if is_ours(base) for name in vars(base)}
        if kind is StoreContract:  # its tests are for pytest, which passes fixtures to them
            names = {"store"}
        for name in sorted(names):
            if not name.startswith("_"):
                yield pytest.param(Handler if kind is SessionMixin else kind, name, id=f"{kind.__name__}.{name}")


MEMBERS = list(public_members())


def documented(statements):
    """Returns the names of what is assigned and has a string below it, where documentation tools look for it."""
    names = set()
    for statement, below in pairwise(statements):
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def body_of(kind):
    return ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body


def parameters(function):
    names = inspect.signature(function).parameters
    return {name for name in names if name not in {"self", "cls"} and not name.startswith("_")}


def named(*docstrings):
    """Returns what the docstrings name."""
    text = "\n".join(filter(None, docstrings))
    listed = re.findall(r"^\s*:arg ([\w, ]+):", text, re.MULTILINE)
    return set(re.findall(r"\w+", " ".join(listed))) | set(re.findall(r"[*`](\w+)[*`]", text))


def function_of(kind, name):
    found = vars(kind)[name]
    return inspect.unwrap(getattr(found, "__func__", found))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_package_names_what_it_has(package):
    assert set(package.__all__) <= named(package.__doc__)


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_name(name):
    thing = EXPORTED[name]
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__doc__
        assert not thing.__doc__.startswith(f"{name}("), "the docstring that a dataclass has by itself"
    else:
        modules = [module for path, module in sys.modules.items() if path.startswith("tornado_sesame.")]
        made = [module for module in modules if vars(module).get(name) is thing]
        assert any(name in documented(ast.parse(inspect.getsource(module)).body) for module in made)


@pytest.mark.parametrize("name", [name for name, thing in EXPORTED.items() if callable(thing)])
def test_what_one_passes_to_an_exported_name(name):
    thing = EXPORTED[name]
    if inspect.isfunction(thing):
        assert parameters(thing) <= named(thing.__doc__)
    elif dataclasses.is_dataclass(thing):
        fields = {field.name for field in dataclasses.fields(thing) if not field.name.startswith("_")}
        assert fields <= named(thing.__doc__)
    elif inspect.isfunction(thing.__init__) and is_ours(thing.__init__):
        assert issubclass(thing, SessionContainer | BaseException) or parameters(thing.__init__) <= named(thing.__doc__)


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_a_member(kind, name):
    member = getattr(kind, name)
    bases = [base for base in kind.__mro__ if name in vars(base)]
    if callable(member) or isinstance(member, property):
        assert any(vars(base)[name].__doc__ for base in bases)
    else:
        assert any(name in documented(body_of(base)) | named(base.__doc__) for base in filter(is_ours, bases))


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_what_one_passes_to_a_method(kind, name):
    bases = [base for base in kind.__mro__ if name in vars(base)]
    if inspect.isfunction(function_of(bases[0], name)):
        described = next(base for base in bases if vars(base)[name].__doc__)
        if is_ours(described):
            expected = parameters(function_of(bases[0], name))
            assert expected <= named(vars(described)[name].__doc__, described.__doc__)
