"""What the `gradflow-jax` command runs: data, networks, sweeps, runs, reports.

    data/           images: readers, augmentation, the data that networks are scored on
    networks/       training, measuring and timing one network
    sweep/          `prune`: one trained network, many measures and sparsities
    reproduction/   `reproduce`: the paper's run, pruned in rounds while it is trained
    report/         `report`: runs compared, tables, figures, pages
    commands/       the options of each command, and what it does
    names           networks and measures by name, without importing JAX
    formatting      numbers and lists as a person reads them
    environment     versions and device

Each room imports those before it; nothing but `cli` imports this one. It needs the
extra `cli`.
"""
