"""What the `gradflow-jax` command runs: data, training, measuring, sweeps, results."""
