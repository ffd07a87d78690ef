"""What a program does to the axes of leaves, and the word that follows from it.

A contraction says of the leaf that it reads what is summed over, and what is not. Of an
axis that is not, what becomes of it later says more: one that is a batch axis of a
product of activations is a head; one that is a batch axis of a product with a further
leaf, and that no leaf ever sums over, divides the model into models side by side.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from gradflow_jax.structured.roles.pieces import AxisKey, Dim, Origin, origins_of

# An axis of which parts are of these kinds holds outputs, whatever divides them.
_OUTPUTS = frozenset(("out", "head", "group", "stack"))


class Uses:
    """The uses of the axes of leaves, as equations are read.

    Attributes:
        words: what the contractions, loops and lookups that read a leaf say of its
            axis: a word, and whether it is of the whole axis.
        added: axes that are met index by index, and the axes that they are laid over.
        picked: axes of which some indices are looked up, which the program knows.
        heads: axes that are batch axes of a product of activations.
        batched: axes that are batch axes of a product with another leaf.
        summed: axes that another leaf sums over.
        multiplied: paths of leaves that are multiplied with data index by index.
        read: paths of leaves that a product or a convolution reads.
        mixed: paths of leaves of which an axis is summed over without a product that
            reads them, and another is not: where nothing else reads them, they are
            weights there that the data changed.
    """

    def __init__(self) -> None:
        self.words: defaultdict[AxisKey, set[tuple[str, bool]]] = defaultdict(set)
        self.added: defaultdict[AxisKey, set[AxisKey]] = defaultdict(set)
        self.picked: set[AxisKey] = set()
        self.heads: set[AxisKey] = set()
        self.batched: set[AxisKey] = set()
        self.summed: set[AxisKey] = set()
        self.multiplied: set[str] = set()
        self.read: set[str] = set()
        self.mixed: set[str] = set()

    def say(self, word: str, dims: Iterable[Dim]) -> None:
        """Notes a word for the axes that run along some dimensions."""
        for dim in dims:
            for origin in origins_of(dim):
                self.words[origin.key].add((word, origin.whole))

    def add(self, dim: Dim, to: Iterable[Dim]) -> None:
        """Notes that a leaf's dimension meets another, index by index."""
        beside = {origin.key for other in to for origin in origins_of(other)}
        for origin in origins_of(dim):
            self.added[origin.key] |= beside - {origin.key}

    def of_leaf(self, path: str, shape: Sequence[int]) -> tuple[str, ...]:
        """Returns the words of a leaf."""
        return tuple(
            self._word((path, axis), size, set()) for axis, size in enumerate(shape)
        )

    def _word(self, key: AxisKey, size: int | None, asked: set[AxisKey]) -> str:
        """Returns the word of an axis.

        Args:
            key: the axis.
            size: of the axis, or None where only a word of its own is asked for.
            asked: the axes whose words depend on this one's.
        """
        if key[0] in self.mixed - self.read and not self._is_bias(key):
            return "unknown"
        words = {word for word, _ in self.words[key]}
        whole = {word for word, is_whole in self.words[key] if is_whole}
        if not words and key in self.added:
            return self._word_of_added(key, asked)
        if key in self.added and words - _OUTPUTS:
            return "unknown"
        if not words:
            # Of one index it does not matter what it is.
            return "out" if size == 1 else "unknown"
        if len(words) > 1:
            return "out" if words <= _OUTPUTS and not whole else "unknown"
        (word,) = words
        return self._refine(key) if word == "out" else word

    def _is_bias(self, key: AxisKey) -> bool:
        """Says whether an axis is added to what a product with another leaf left."""
        beside = {path for path, _ in self.added.get(key, ())}
        return key[0] not in self.multiplied and not beside.isdisjoint(self.read)

    def _refine(self, key: AxisKey) -> str:
        if key in self.batched and key not in self.summed:
            return "group"
        return "head" if key in self.heads else "out"

    def _word_of_added(self, key: AxisKey, asked: set[AxisKey]) -> str:
        if key in self.picked:
            return "in"
        refined = self._refine(key)
        if refined != "out":
            return refined
        asked = asked | {key}
        beside = {
            self._word(other, None, asked) for other in self.added[key] - asked
        } - {"unknown"}
        return beside.pop() if len(beside) == 1 and beside <= _OUTPUTS else "out"


def keys(dims: Iterable[Dim], *, whole: bool = False) -> set[AxisKey]:
    """Returns the axes of leaves along some dimensions, perhaps only whole ones."""
    origins: set[Origin] = {origin for dim in dims for origin in origins_of(dim)}
    return {origin.key for origin in origins if origin.whole or not whole}


def paths_summed_apart(summed: Iterable[Dim], kept: Iterable[Dim]) -> set[str]:
    """Returns the leaves of which one axis is summed over and another is not."""
    over, rest = keys(summed), keys(kept)
    return {path for path, _ in over - rest} & {path for path, _ in rest - over}
