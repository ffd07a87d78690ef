"""`gradflow-jax reproduce`: the paper's run, pruned in rounds while it is trained.

    record              settings, and what a run tells
    record_reading      records of files, which may hold anything
    run                 the run itself
    watching            who is told what the run is doing
    folder              a run in a folder, which goes on where it was stopped
    ownership           what in a folder is a run's own
    rounds              how much each round removes, and which filters
    published_rules     the choices of the authors' release, quirks and all
    dense_network       the network before anything is cut
    shrinking_network   a network in training that becomes smaller
    sizes               its filters, parameters and FLOPs
    checkpoints         its state on disk, by Orbax
    saved_network       a saved network, loaded and tested
    times               the times of its networks
    table               its table in the terminal

Imports `data` and `networks`.
"""
