"""The optimizer step with masks over the plain one, each in one jit."""

import optax
import pytest
from measuring import Ratio, temporaries
from stepping import OPTIMIZERS, Stepper, carried, drawn, random_masks

import gradflow_jax as gf

# Weights in millions by the width of a ResNet-50, and the target.
SIZES = {"25.6 M": (64, 1.06), "10.4 M": (40, None)}

LIMIT = (
    "the least: that of carrying the masks unread, times what their bytes add to those "
    "of the step, 1.05 with sgd and 1.04 with adamw"
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_step_over_plain(paired, counted, quick, name, size):
    width, target = SIZES[size]
    width = width // 4 if quick else width
    params, gradient = drawn(width, 0), drawn(width, 1, 1e-3)
    tx, masks = OPTIMIZERS[name](), random_masks(params)
    bools, bits = gf.apply_mask(masks), gf.apply_mask(masks, packed=True)
    contestants = {
        "ours": Stepper(optax.chain(tx, bools), params, gradient),
        "packed": Stepper(optax.chain(tx, bits), params, gradient),
        "carried": Stepper(optax.chain(tx, carried(masks)), params, gradient),
        "plain": Stepper(tx, params, gradient),
    }
    memory = {
        kind: temporaries(stepper.compiled()) for kind, stepper in contestants.items()
    }
    work = f"{name}, {size} weights"
    paired(
        contestants,
        Ratio(f"step that carries masks unread over plain: {work}", "carried", "plain"),
        Ratio(f"masked step over plain: {work}", "ours", "plain", target, note=LIMIT),
        Ratio(f"masked step over plain, masks as bits: {work}", "packed", "plain"),
        rounds=51,
        memory=memory,
    )
    more = memory["ours"]["temporaries"] - memory["plain"]["temporaries"]
    counted(f"temporaries of the masked step: {work}", more, "bytes", at_most=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recompilations(counted, name):
    params, gradient = drawn(4, 0), drawn(4, 1)
    tx = optax.chain(OPTIMIZERS[name](), gf.apply_mask(random_masks(params)))
    stepper = Stepper(tx, params, gradient)
    stepper()
    before = stepper.step._cache_size()
    for seed in (3, 4):
        masks = random_masks(params, seed)
        stepper.state = gf.replace_masks(tx, stepper.state, stepper.params, masks)
        stepper()
    found = stepper.step._cache_size() - before
    counted(f"recompilations at new masks: {name}", found, "", at_most=0)
