"""`gradflow-jax prune`: one trained network, many measures, many sparsities.

    settings       what a sweep does; imports no JAX
    loop           trains, scores, prunes and fine-tunes, whatever is pruned
    weights        prunes weights
    units          cuts units
    cut_and_time   a trained network as a function that is cut, checked and timed
    results        JSON and CSV, written whole or not at all
    table          the tables in the terminal
    picture        accuracy against sparsity

Imports `data` and `networks`.
"""
