"""Lists what is defined in the product and reached by nothing in it: rules that are built, tested and never called.

Names alone do not tell: `forget` is called somewhere, but on another class. So mypy says whose method each expression
means. A use within the thing itself, or in another that is itself reached by nothing, is none. Tests do not count.

    python .ci/uncalled.py [FOLDER ...]     service and loadtest where none is named; exit status 1 where it finds one
"""

import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from mypy import build, nodes, types
from mypy.config_parser import parse_config_file
from mypy.find_sources import create_source_list
from mypy.options import Options

KEPT = {
    "service.web.metrics.DatapathCollector.describe": "prometheus_client calls it where it is there",
    "service.lease.registrar.Registrar.electorate": "what the simulators steer the electorate by",
    "service.wire.sealed_socket.SealedSocket.address": "tests bind to any free port, and ask which one it became",
}
"""What is called after all, each with by whom. An entry that is not needed (any more) is an error, too."""


_DOTTED = re.compile(r"[\w.]+")


class Uses:
    """Who mentions whom: full name of the definition around an expression -> full names of what it means."""

    def __init__(self, known: dict[nodes.Expression, types.Type]) -> None:
        self.uses: dict[str, set[str]] = {}
        self.by_name: set[str] = set()
        """Names called on protocols, or on what mypy knows nothing of: they may be anybody's."""
        self._known = known
        self._around: list[str] = [""]
        self._seen: set[int] = set()

    def visit(self, node: nodes.Node) -> None:
        """Take a node and all below it."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        around = node.fullname if isinstance(node, nodes.MypyFile | nodes.FuncDef) else ""
        # A function within a function has no name of its own outside.
        self._around.append(around if around and "@" not in around else self._around[-1])
        self._note(node)
        for child in children(node):
            self.visit(child)
        self._around.pop()

    def _note(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.ClassDef):
            for base in node.info.bases:
                self._use(base.type.fullname)
        if isinstance(node, nodes.AssignmentStmt | nodes.FuncDef):
            # An annotation is a use: msgspec makes what a field is said to be.
            for name in _DOTTED.findall(str(node.type)):
                self._use(name)
        if isinstance(node, nodes.NameExpr):
            self._use(node.fullname)
        elif isinstance(node, nodes.MemberExpr):
            if node.fullname and not isinstance(node.node, nodes.Var):
                self._use(node.fullname)
            self._use_member(types.get_proper_type(self._known.get(node.expr)), node.name)

    def _use(self, fullname: str) -> None:
        if fullname:
            self.uses.setdefault(self._around[-1], set()).add(fullname)

    def _use_member(self, base: types.ProperType | None, name: str) -> None:
        if isinstance(base, types.UnionType):
            for item in base.items:
                self._use_member(types.get_proper_type(item), name)
        elif isinstance(base, types.TypeVarType):
            self._use_member(types.get_proper_type(base.upper_bound), name)
        elif isinstance(base, types.TypeType):
            self._use_member(types.get_proper_type(base.item), name)
        elif isinstance(base, types.TupleType):
            self._use_member(base.partial_fallback, name)
        elif isinstance(base, types.FunctionLike) and base.is_type_obj():
            self._use_in(base.type_object(), name)
        elif isinstance(base, types.Instance):
            self._use_in(base.type, name)
        elif isinstance(base, types.AnyType):
            self.by_name.add(name)

    def _use_in(self, info: nodes.TypeInfo, name: str) -> None:
        if info.is_protocol:
            self.by_name.add(name)
        found = info.get(name)
        if found is not None and found.node is not None:
            self._use(found.node.fullname)


_REFERENCES = {"node", "info", "type", "names", "original_def", "expanded", "mro", "analyzed", "defs_of", "plugin_deps"}
"""Attributes of nodes that lead elsewhere and not down."""


def children(node: nodes.Node) -> Iterator[nodes.Node]:
    """What stands below a node. mypy's own visitors are compiled and cannot be extended."""
    for name in _attributes(type(node)):
        value = getattr(node, name, None)
        yield from _nodes_in(value)


@cache
def _attributes(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if not name.startswith("_") and name not in _REFERENCES)


def _nodes_in(value: object) -> Iterator[nodes.Node]:
    if isinstance(value, nodes.Node):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _nodes_in(item)


def definitions(tree: nodes.MypyFile) -> Iterator[tuple[nodes.SymbolNode, nodes.TypeInfo | None]]:
    """Functions and classes of a module, and their methods with the class."""
    for symbol in tree.names.values():
        node = symbol.node
        if node is None or not node.fullname.startswith(f"{tree.fullname}."):
            continue
        if isinstance(node, nodes.TypeInfo):
            yield node, None
            yield from ((member.node, node) for member in node.names.values() if member.node is not None)
        elif isinstance(node, nodes.FuncDef | nodes.Decorator | nodes.OverloadedFuncDef):
            yield node, None


_MADE = ("_asdict", "_make", "_replace", "_source", "_fields", "_field_types", "_field_defaults")
"""What every named tuple has."""


def is_asked(node: nodes.SymbolNode, owner: nodes.TypeInfo | None) -> bool:
    """Whether it should be reached: no field, nothing that Python, a base class or a command line calls."""
    if not isinstance(node, nodes.FuncDef | nodes.Decorator | nodes.OverloadedFuncDef | nodes.TypeInfo):
        return False
    name = node.name
    if name.startswith("__") or (isinstance(node, nodes.TypeInfo) and node.is_protocol):
        return False
    if owner is not None and owner.is_named_tuple and name in _MADE:
        return False
    if isinstance(node, nodes.Decorator) and any(is_command(decorator) for decorator in node.original_decorators):
        return False
    if owner is None:
        return True
    # Of a base class that is not ours, or a protocol: whoever calls that calls this.
    return not owner.is_protocol and not any(name in base.names for base in owner.mro[1:])


def is_command(decorator: nodes.Expression) -> bool:
    """`@group.command(...)` and `@click.group(...)`: the command line calls it."""
    callee = decorator.callee if isinstance(decorator, nodes.CallExpr) else decorator
    return isinstance(callee, nodes.MemberExpr) and callee.name in ("command", "group")


def uncalled(folders: list[str]) -> tuple[list[str], list[str]]:
    """What nothing reaches, each as `file:line: name`; and the entries of KEPT that are not needed."""
    options = Options()
    parse_config_file(options, lambda: None, "pyproject.toml")
    options.export_types = options.preserve_asts = True
    options.incremental = False
    sources = create_source_list(folders, options)
    result = build.build(sources, options)
    if result.errors:
        raise SystemExit("\n".join(result.errors))
    trees = [result.files[source.module] for source in sources]
    uses = Uses(result.types)
    for tree in trees:
        uses.visit(tree)
    asked = {
        node.fullname: f"{tree.path}:{node.line}: {node.fullname}"
        for tree in trees
        for node, owner in definitions(tree)
        if is_asked(node, owner)
    }
    missing = asked.keys() - reached(asked, uses, ())
    found = asked.keys() - reached(asked, uses, KEPT)
    return [asked[name] for name in sorted(found)], sorted(KEPT.keys() - missing)


def reached(asked: dict[str, str], uses: Uses, kept: Iterable[str]) -> set[str]:
    """Everything that a module's own lines use, and what that uses in turn. What only uses itself is not among it."""
    found: set[str] = set()
    waiting = [*kept, *(name for name in uses.uses if name not in asked)]
    waiting += [name for name in asked if name.rpartition(".")[2] in uses.by_name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += uses.uses.get(name, ())
    return found


if __name__ == "__main__":
    unreached, idle = uncalled(sys.argv[1:] or ["service", "loadtest"])
    for line in unreached:
        print(f"{line} is called by nothing in the product", file=sys.stderr)
    for name in idle:
        print(f"{Path(__file__).name}: KEPT names {name}, which needs no exception", file=sys.stderr)
    sys.exit(1 if unreached or idle else 0)
