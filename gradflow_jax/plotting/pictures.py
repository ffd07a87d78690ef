"""Pictures of masks: which weights of a layer are kept."""

import chex
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from gradflow_jax.plotting import drawable
from gradflow_jax.plotting.curves import COLORS
from gradflow_jax.trees import fetch, mask_leaves

_COLORS = ("#FFFFFF", COLORS[5], COLORS[0])
_NAMES = ("removed", "kept, on no path", "kept")


@drawable.takes(ax=drawable.axes)
def mask_picture(
    ax: Axes, mask: chex.Array, *, effective: chex.Array | None = None
) -> AxesImage:
    """Draws a layer's mask, a cell for each weight; orange is kept in vain.

    Args:
        ax: where to draw; cells are square.
        mask: bool [in, out] of a dense layer or [height, width, in, out] of a
            convolution, True keeps. A convolution is drawn as one window of
            height × width cells for each pair of an input and an output channel.
        effective: the same of the effective masks, to tell apart what is on no path.

    Returns:
        What was drawn: 0 of removed weights, 1 of those kept on no path, 2 of others.

    Raises:
        TypeError: if the masks are not arrays of bool.
        ValueError: if the mask has neither two nor four dimensions, or the effective
            one has another shape.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> mask = np.array([[True, False], [True, True]])
        >>> image = mask_picture(ax, mask, effective=np.array([[True, False]] * 2))
        >>> image.get_array().tolist()
        [[2, 0], [2, 1]]
    """
    if not hasattr(mask, "shape"):
        raise TypeError(
            f"the mask is a {type(mask).__name__}: a picture is of one layer, "
            "masks['layer']['kernel']."
        )
    kept: np.ndarray = _fetched(mask, mask, "the mask")
    on_path: np.ndarray = kept
    if effective is not None:
        on_path = _fetched(effective, mask, "effective")
    if kept.ndim not in (2, 4):
        raise ValueError(
            f"a mask of shape {kept.shape} is no picture: pass [in, out] or [height, "
            "width, in, out], or reshape it to one of them."
        )
    kinds = np.where(kept & ~on_path, 1, np.where(kept, 2, 0))
    window = (1, 1) if kept.ndim == 2 else kept.shape[:2]
    inputs, outputs = kept.shape[-2:]
    if kept.ndim == 4:
        # Cell (h, w) of the window of channels (i, o) is at (i · height + h, o · width
        # + w) of the picture.
        kinds = kinds.transpose(2, 0, 3, 1)
        kinds = kinds.reshape(inputs * window[0], outputs * window[1])
    image = ax.imshow(
        kinds, cmap=ListedColormap(_COLORS), vmin=-0.5, vmax=2.5, interpolation="none"
    )
    sides = (ax.yaxis, inputs, window[0]), (ax.xaxis, outputs, window[1])
    for axis, count, step in sides:
        if max(inputs, outputs) <= 40:  # Lines between more cells would hide them.
            axis.set_ticks(np.arange(count + 1) * step - 0.5, minor=True)
        # Eight numbers or fewer stand on a side, each at the middle of its window.
        labeled = np.arange(0, count, max(1, -(-count // 8)))
        axis.set_ticks(labeled * step + (step - 1) / 2, [str(i) for i in labeled])
    ax.grid(which="minor", color="0.75", linewidth=0.5)
    ax.tick_params(which="minor", length=0)
    side = "unit" if kept.ndim == 2 else "channel"
    ax.set_xlabel(f"number of the output {side}")
    ax.set_ylabel(f"number of the input {side}")
    shown_kinds = (0, 2) if effective is None else (0, 1, 2)
    ax.legend(
        handles=[
            Patch(facecolor=_COLORS[i], edgecolor="0.5", label=_NAMES[i])
            for i in shown_kinds
        ],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=len(shown_kinds),
        frameon=False,
        fontsize=8,
        handlelength=1.0,
    )
    return image


def _fetched(mask: chex.Array, like: chex.Array, what: str) -> np.ndarray:
    """Returns one mask, checked to be bool and of the shape of another.

    Raises:
        TypeError: if it is not bool.
        ValueError: if it has another shape.
    """
    (leaf,) = mask_leaves(mask, like, what=what, like_what="the mask")
    return fetch(leaf, what)
