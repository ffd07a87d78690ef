"""The same networks in torch, from the same parameters. Torch is imported here alone.

Convolutions are laid out as torch has them by default: batch, channel, height, width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import networks
import numpy as np
import torch
import torch.nn.functional as F

ON_GPU = jax.default_backend() == "gpu" and torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
torch.set_num_threads(2)

Loss = Callable[[Any, Any], torch.Tensor]


def finished(result: Any) -> Any:
    """Waits until the device has computed the result."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return result


def tensor(leaf: Any) -> torch.Tensor:
    """Returns an array as torch wants it: kernels of convolutions outputs first."""
    array = np.array(leaf)
    return torch.from_numpy(
        array.transpose(3, 2, 0, 1).copy() if array.ndim == 4 else array
    ).to(DEVICE)


def images_and_labels(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a batch of `networks.image_batch`."""
    images, labels = map(np.array, batch)
    channels_first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return channels_first.to(DEVICE), torch.from_numpy(labels).long().to(DEVICE)


def parameters(params: networks.Tree) -> networks.Tree:
    """Returns the parameters, as leaves of torch's graph."""
    return jax.tree.map(lambda leaf: tensor(leaf).requires_grad_(), params)


def loss_of(kind: str, running: networks.Tree) -> Loss:
    """Returns `loss(params, (images, labels))` of a "resnet" or a "vgg"."""
    forward = {"resnet": _resnet, "vgg": _vgg}[kind]
    statistics = jax.tree.map(tensor, running)

    def loss(params: networks.Tree, batch: Any) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(forward(params, statistics, images), labels)

    return loss


def _conv_norm(
    name: str, params: Any, running: Any, x: torch.Tensor, stride: int = 1
) -> torch.Tensor:
    kernel, norm = params["conv"]["kernel"], params["norm"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    mean, variance = running[name]
    return F.batch_norm(x, mean, variance, norm["scale"], norm["bias"], eps=1e-5)


def _head(params: Any, x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3)) @ params["head"]["kernel"] + params["head"]["bias"]


def _resnet(params: Any, running: Any, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(_conv_norm("stem", params["stem"], running, x))
    for name in sorted(name for name in params if name.startswith("stage")):
        block, own = params[name], x
        stride = 2 if "shortcut" in block else 1
        x = F.relu(_conv_norm(f"{name}/first", block["first"], running, x, stride))
        x = _conv_norm(f"{name}/second", block["second"], running, x)
        if stride > 1:
            own = _conv_norm(
                f"{name}/shortcut", block["shortcut"], running, own, stride
            )
        x = F.relu(x + own)
    return _head(params, x)


def _vgg(params: Any, running: Any, x: torch.Tensor) -> torch.Tensor:
    names = iter(sorted(params))
    for width in networks.VGG13:
        if width == "P":
            x = F.max_pool2d(x, 2)
        else:
            name = next(names)
            x = F.relu(_conv_norm(name, params[name], running, x))
    return _head(params, x)


def gradient(loss: Loss, params: Any, batches: Sequence[Any]) -> list[torch.Tensor]:
    """Returns ḡ of the mean over batches of one size."""
    leaves = jax.tree.leaves(params)
    total = [torch.zeros_like(leaf) for leaf in leaves]
    for batch in batches:
        found = torch.autograd.grad(loss(params, batch), leaves)
        torch._foreach_add_(total, found)
    torch._foreach_div_(total, len(batches))
    return finished(total)


def hessian_gradient(
    loss: Loss, params: Any, batches: Sequence[Any]
) -> list[torch.Tensor]:
    """Returns Hḡ of the mean: a pass for ḡ, then one of double backward."""
    leaves = jax.tree.leaves(params)
    along = gradient(loss, params, batches)
    total = [torch.zeros_like(leaf) for leaf in leaves]
    for batch in batches:
        found = torch.autograd.grad(loss(params, batch), leaves, create_graph=True)
        product = sum((g * v).sum() for g, v in zip(found, along, strict=True))
        torch._foreach_add_(total, torch.autograd.grad(product, leaves))
    torch._foreach_div_(total, len(batches))
    return finished(total)
