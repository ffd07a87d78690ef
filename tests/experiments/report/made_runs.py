"""Records of runs that never were: numbers of a plausible shape, drawn by seed."""

import json

import numpy as np

from gradflow_jax.experiments.reproduction.record import (
    Correlations,
    EpochRow,
    RoundRow,
    RunRecord,
    RunSettings,
    Size,
    to_json,
)

MEASURES = (
    "magnitude",
    "loss_preservation",
    "biased_loss_preservation",
    "grasp",
    "gradient_norm_preservation",
)
VERSIONS = {"python": "3.11.9", "jax": "0.10.2", "device": "cpu"}
DATA = "CIFAR-10 (50000 + 10000 images)"
LAYERS = {"conv1": 8, "conv2": 16, "conv3": 24}


def made_run(
    measure="magnitude",
    rounds=1,
    seed=0,
    *,
    accuracy=None,
    layers=None,
    correlated=(),
    data=DATA,
    by_position=0,
    **settings,
):
    """Returns a complete run, dense of no rounds.

    Args:
        measure: what pruned.
        rounds: of pruning.
        seed: of the run and of its made-up numbers.
        accuracy: after the last epoch; made up if None.
        layers: the widths before pruning.
        correlated: measures whose ranks are correlated every fifth epoch.
        data: the data set.
        by_position: filters that every round kept by their position.
        **settings: other settings of the run.
    """
    layers = layers or LAYERS
    settings = {"prune": 0.5, "schedule": ((8, 0.1), (4, 0.01)), **settings}
    own = RunSettings(
        measure=measure,
        rounds=rounds,
        seed=seed,
        model=settings.pop("model", "vgg13"),
        correlate_every=5 if correlated else 0,
        **settings,
    )
    rng = np.random.default_rng([seed, rounds, len(measure)])
    place = MEASURES.index(measure) if measure in MEASURES else 0
    # The later the layer the more of it goes, by some measures more than by others.
    shares = own.prune * np.linspace(0.4, 1.2, len(layers)) ** (1 + place / 3)
    shares += rng.normal(0, 0.02, len(layers))
    keep = {
        name: max(1, round(width * (1 - share)))
        for (name, width), share in zip(layers.items(), shares.clip(0, 1), strict=True)
    }
    dense, cut = sized(layers), sized(keep)
    last = own.warmup + rounds
    epochs = []
    for epoch in range(1, own.epochs + 1):
        slow = 1 + 0.15 * place + (0.6 if epoch == last + 1 else 0.0)
        fall = np.exp(-epoch / own.epochs * 3) * own.learning_rate(epoch) ** 0.6
        loss = slow * (0.004 + 7 * fall) * rng.lognormal(0, 0.06)
        test = 0.93 - 0.004 * place - 0.3 * fall + rng.normal(0, 0.002)
        epochs.append(
            EpochRow(
                epoch=epoch,
                learning_rate=own.learning_rate(epoch),
                train_loss=loss,
                train_accuracy=1 - loss / 5,
                test_loss=loss + 0.3,
                test_accuracy=test,
                filters=(cut if rounds and epoch > last else dense).filters,
            )
        )
    if accuracy is not None:
        epochs[-1] = EpochRow(**{**vars(epochs[-1]), "test_accuracy": accuracy})
    return RunRecord(
        settings=own,
        data=data,
        image_shape=(32, 32, 3),
        classes=10,
        versions=VERSIONS,
        dense=dense,
        epochs=tuple(epochs),
        rounds=tuple(
            RoundRow(
                round=i,
                epoch=own.warmup + i,
                share=0.1,
                accuracy_before=0.8,
                accuracy=0.4,
                loss=2.0,
                size=cut if i == rounds else dense,
                by_position=by_position,
            )
            for i in range(1, rounds + 1)
        ),
        correlations=tuple(
            correlations(epoch, correlated, rng)
            for epoch in range(5, own.epochs + 1, 5)
            if correlated
        ),
        best_accuracy=max(row.test_accuracy for row in epochs if row.epoch > last),
        complete=True,
    )


def sized(widths):
    """Returns the size of a chain of layers of 3 × 3 filters."""
    pairs = list(zip((3, *widths.values()), widths.values(), strict=False))
    parameters = sum(9 * before * after for before, after in pairs)
    return Size(sum(widths.values()), parameters, 100 * parameters, dict(widths))


def correlations(epoch, measures, rng):
    """Returns symmetric correlations that drift with the epoch."""
    places = np.arange(len(measures))
    away = np.abs(places[:, None] - places)
    upper = np.triu(rng.normal(0, 0.03, away.shape), 1)
    matrix = np.clip(1 - 0.4 * away * np.exp(-epoch / 60) + upper + upper.T, -1, 1)
    return Correlations(epoch, tuple(measures), tuple(map(tuple, matrix.tolist())))


def write_run(folder, record, times_faster=None):
    """Writes a run as `reproduce` does; returns its file."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(to_json(record))
    if times_faster is not None:
        row = {"forward_ms": 1.0, "dense_forward_ms": times_faster}
        rows = [
            {"round": 1, "times_faster": 1.0, **row},
            {"round": 2, "times_faster": times_faster, **row},
        ]
        (folder / "times.json").write_text(json.dumps({"rounds": rows, "seconds": 9}))
    return folder / "run.json"
