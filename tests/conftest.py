import jax
import pytest


@pytest.fixture
def float64():
    """Runs one test in float64."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def strict_ranks():
    """Arrays of different rank do not broadcast, on purpose or by accident."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", "allow")
