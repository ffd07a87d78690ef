"""The order in which scores are kept: exact, and the same on every device."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow_jax.trees import widen


def to_ordered_integers(scores: Any) -> Any:
    """Returns integers in the order of the scores, which JAX or NumPy holds.

    The bits of a float, read as an integer, are in the order of the floats, but for
    the negative ones, which are mirrored; the two zeros become one. Comparing floats
    would not do: some devices, XLA's CPU among them, take denormals for zero.
    """
    kind = np.int64 if scores.dtype.itemsize == 8 else np.int32
    if isinstance(scores, np.ndarray) and scores.dtype.itemsize >= 4:
        bits = scores.view(kind)
    else:
        bits = jax.lax.bitcast_convert_type(widen(scores), kind)
    # The bits of −0.0 are the least integer, which becomes 0; those of ever lower
    # floats follow it upwards, and become −1, −2, … The sign, 0 or −1, does without a
    # branch, and the assignments without further arrays: NumPy is ten times as fast.
    limits = np.iinfo(kind)
    sign = bits >> (limits.bits - 1)
    ordered = sign & limits.max
    ordered ^= bits
    ordered -= sign
    return ordered


class Order(NamedTuple):
    """Integers for the scores of several leaves, which compare as the scores do.

    Attributes:
        float_kind: the dtype in which the leaves are compared.
        shift: how many of the last bits of `to_ordered_integers` are zero in all of
            them: half of the 32 where all are bfloat16. The fewer integers there are,
            the fewer to search.
    """

    float_kind: np.dtype
    shift: int

    @classmethod
    def of(cls, leaves: Iterable[Any]) -> "Order":
        """Returns the order for leaves of these dtypes."""
        kinds = {jnp.dtype(leaf.dtype) for leaf in leaves}
        has_doubles = any(kind.itemsize == 8 for kind in kinds)
        float_kind = np.dtype(np.float64 if has_doubles else np.float32)
        # A narrower float fills the first bits of the mantissa alone.
        mantissa_bits = max(jnp.finfo(kind).nmant for kind in kinds)
        return cls(float_kind, jnp.finfo(float_kind).nmant - mantissa_bits)

    def rank(self, scores: Any) -> Any:
        """Returns the integers of a leaf, which JAX or NumPy holds."""
        ordered = to_ordered_integers(scores.astype(self.float_kind, copy=False))
        return ordered >> self.shift if self.shift else ordered

    def rank_kind(self) -> np.dtype:
        """Returns the dtype of ranks."""
        return np.dtype(f"int{8 * self.float_kind.itemsize}")

    def largest(self) -> int:
        """Returns the rank that no finite score exceeds; its negative is the lowest."""
        return int(self.rank(np.asarray([np.finfo(self.float_kind).max]))[0])
