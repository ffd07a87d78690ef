"""The command observe as a user meets it."""

import json

import pytest
from click.testing import CliRunner

from gradflow_jax.experiments.commands.observe_command import observe
from gradflow_jax.experiments.data import dataset as module

SHORT = "--seeds 2 --steps 12 --finetune-steps 5 --examples 40".split()


def call(*arguments):
    found = CliRunner(env={"COLUMNS": "80"}).invoke(observe, list(map(str, arguments)))
    return found.exit_code, found.output


@pytest.fixture(scope="module")
def observed(tmp_path_factory, tiny_npz):
    out = tmp_path_factory.mktemp("observed") / "out[1]"
    return out, call(*SHORT, "--data", tiny_npz, "--out", out)


@pytest.mark.runs
def test_a_screen_of_verdicts_a_picture_and_the_numbers(observed):
    out, (code, screen) = observed
    assert code == 0, screen
    lines = screen.splitlines()
    assert lines[0] == "Data: tiny, 39 + 60 of 120 + 60 images"
    assert lines[-1] == f"Written to {out}: observations.json, observations.png"
    assert max(map(len, lines[1:-1])) <= 80
    numbers = [line.split()[0] for line in lines if line[:4].strip().isdecimal()]
    assert numbers == list("12345")
    assert (out / "observations.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((out / "observations.json").read_text(encoding="utf-8"))
    assert content["settings"]["seeds"] == 2 and content["settings"]["model"] == "cnn"
    assert list(content)[1:] == ["first", "second", "third", "fourth", "fifth"]
    assert len(content["first"]["magnitude_losses"]) == 2
    layers = "conv1/kernel", "conv2/kernel", "dense/kernel", "classifier/kernel"
    assert tuple(content["fourth"]["layers"]) == layers
    for one in content["first"]["findings"]:
        assert f"{one['mean']:+.2g} nats" in screen
        assert one["verdict"].split()[0] in screen


@pytest.mark.runs
def test_a_result_is_replaced_only_by_force(observed, tiny_npz):
    out, _ = observed
    before = (out / "observations.json").read_bytes()
    code, screen = call("--out", out, "--data", tiny_npz)
    assert code == 2 and "observations.json exists already" in screen
    again = call(*SHORT, "--data", tiny_npz, "--out", out, "--force", "--quiet")
    assert again == (0, "")
    assert (out / "observations.json").read_bytes() == before


def test_what_cannot_be_read_or_written(tmp_path):
    code, screen = call("--data", "absent", "--out", tmp_path / "out")
    assert code == 2 and "absent does not exist" in screen
    assert not (tmp_path / "out").exists()
    code, screen = call("--data", "subset", "--out", f"{__file__}/out")
    assert code == 2 and "cannot be made" in screen


def test_digits_come_from_scikit_learn(monkeypatch):
    dataset = module.load("digits")
    assert dataset.x_train.shape == (1437, 8, 8, 1) and dataset.classes == 10
    assert dataset.x_test.shape == (360, 8, 8, 1) and dataset.x_train.max() == 255
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(module.DataError, match="pip install scikit-learn"):
        module.load("digits")
