import time

from gradflow_jax.experiments.networks.timing import time_in_pairs


def test_a_function_is_timed_beside_another():
    calls = []

    def sleeper(name, seconds):
        def call():
            calls.append(name)
            time.sleep(seconds)

        return call

    found = time_in_pairs(sleeper("fast", 0.002), sleeper("slow", 0.02), pairs=5)
    assert calls == ["slow", "fast"] * (3 + 5)
    assert found.milliseconds >= 2 and found.reference_milliseconds >= 20
    assert 2 < found.faster <= 11
