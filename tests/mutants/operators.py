"""What a mutant changes: each operator turns one statement into others like it.

A statement is known by its text as `ast.unparse` gives it, so that neither its line nor
its layout matters; of a statement with a body the text is that of its header.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
HEADERS = {
    ast.If: ("test",),
    ast.While: ("test",),
    ast.For: ("target", "iter"),
    ast.With: ("items",),
}
Edit = Callable[[ast.AST], None]


class Statement(NamedTuple):
    """A statement that may be changed.

    Attributes:
        node: the statement; its body, if it has one, is replaced by `...`.
        parameters: the names that the function around it takes.
    """

    node: ast.stmt
    parameters: tuple[str, ...]


def statements(tree: ast.Module) -> Iterator[Statement]:
    """Yields the statements inside functions, but docstrings, imports, definitions."""

    def inside(node: ast.AST, parameters: tuple[str, ...] | None):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args.posonlyargs + node.args.args
            parameters = tuple(argument.arg for argument in arguments)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt) and parameters is not None:
                left_out = ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom
                constant = isinstance(child, ast.Expr) and isinstance(
                    child.value, ast.Constant
                )
                if not isinstance(child, (*left_out, ast.Try)) and not constant:
                    yield Statement(header(child), parameters)
            yield from inside(child, parameters)

    yield from inside(tree, None)


def header(node: ast.stmt) -> ast.stmt:
    """Returns a copy of a statement, without the body it may have."""
    bare = copy.copy(node)
    if type(node) in HEADERS:
        bare.body = [ast.Expr(ast.Constant(...))]
        bare.orelse = []
    return copy.deepcopy(bare)


def _edits(node: ast.AST) -> Iterator[tuple[str, Edit]]:
    """Yields (operator, change in place) for one node of a statement."""
    if isinstance(node, ast.Compare):
        for index, old in enumerate(node.ops):

            def compare(node, index=index, old=old):
                node.ops[index] = COMPARISONS[type(old)]()

            yield "comparison", compare
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:

        def calculate(node):
            node.op = ARITHMETIC[type(node.op)]()

        yield "arithmetic", calculate
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):

            def turn(node):
                node.value = not node.value

            yield "constant", turn
        elif isinstance(node.value, int | float):

            def increase(node):
                node.value += 1

            yield "constant", increase
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):

        def negate(node):
            node.right = ast.UnaryOp(ast.USub(), node.right)

        yield "sign", negate
    if isinstance(node, ast.keyword) and node.arg in ("axis", "dim"):

        def move(node):
            zero = isinstance(node.value, ast.Constant) and node.value.value == 0
            node.value = ast.Constant(1 if zero else 0)

        yield "axis", move


def _replacements(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yields (operator, expression) for what may stand in the place of another."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign", node.operand
    if isinstance(node, ast.Call) and len(node.args) == 1:
        name = ast.unparse(node.func)
        if name in ("abs", "jnp.abs", "np.abs"):
            yield "sign", node.args[0]


def _without_effect(node: ast.AST) -> Iterator[ast.AST]:
    """Yields parts whose change no correct program shows: types, `zip`'s `strict`."""
    if isinstance(node, ast.AnnAssign):
        yield from ast.walk(node.annotation)
    if isinstance(node, ast.keyword) and node.arg == "strict":
        yield node.value


def _whole(statement: Statement) -> Iterator[tuple[str, ast.stmt]]:
    """Yields (operator, statement) for changes of a statement as a whole."""
    node = statement.node
    effect = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    stores = isinstance(node, ast.Assign) and not any(
        isinstance(target, ast.Name | ast.Tuple) for target in node.targets
    )
    leaves = isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break)
    if effect or stores or leaves:
        yield "dropped statement", ast.Pass()
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
        for argument in node.value.args:
            if isinstance(argument, ast.Name) and argument.id in statement.parameters:
                yield "returned argument", ast.Return(argument)


OPERATORS = (
    "comparison",
    "arithmetic",
    "constant",
    "sign",
    "axis",
    "dropped statement",
    "returned argument",
)


def mutants(statement: Statement) -> Iterator[tuple[str, str]]:
    """Yields (operator, text after) for every change of a statement."""
    for operator, node in _whole(statement):
        yield operator, ast.unparse(node)
    nodes = list(ast.walk(statement.node))
    left_out = {part for node in nodes for part in _without_effect(node)}
    for index, at in enumerate(nodes):
        if at in left_out:
            continue
        for operator, edit in _edits(at):
            changed = copy.deepcopy(statement.node)
            edit(list(ast.walk(changed))[index])
            yield operator, ast.unparse(changed)
        for operator, new in _replacements(at):
            changed = copy.deepcopy(statement.node)
            old = list(ast.walk(changed))[index]
            yield operator, ast.unparse(_Replace(old, new).visit(changed))


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.expr):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def planted(source: str, before: str, after: str) -> str:
    """Returns a file's text with a statement changed.

    Only the lines of the statement change, of one with a body those of its header.

    Raises:
        ValueError: if the statement is not in the file.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and ast.unparse(header(node)) == before:
            lines = source.splitlines(keepends=True)
            first, last = node.lineno - 1, node.end_lineno
            if type(node) in HEADERS:
                last = node.body[0].lineno - 1
                after = after.rpartition("\n")[0] or after
            indent = lines[first][: node.col_offset]
            # An elif is an if whose line begins otherwise.
            if lines[first][node.col_offset :].startswith("elif"):
                after = f"el{after}"
            text = "".join(f"{indent}{line}\n" for line in after.splitlines())
            return "".join([*lines[:first], text, *lines[last:]])
    raise ValueError(f"there is no statement {before!r}")
