"""What is damaged, or says what it does not hold, is one error that names the file."""

import json
import os
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

import gradflow_jax as gf
from gradflow_jax.structured.saving import cut_records
from gradflow_jax.structured.saving.tensor_files import read_tensors
from gradflow_jax.trees import named_leaves

X = np.ones((1, 3), np.float32)
KEY = "gradflow_jax.cut"


def apply(p, x):
    return jnp.tanh(x @ p["in"]["w"]) @ p["out"][0] + p["bias"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a file, and its leaves."""
    variables = {
        "in": {"w": np.arange(12, dtype=np.float32).reshape(3, 4)},
        "out": [np.ones((4, 2), np.float32), np.ones(3, jnp.float8_e4m3b11fnuz)],
        "bias": np.zeros(2, np.float32),
        "on": np.array([True, False]),
        "small": np.array([1, -2], jnp.int4),
        "key": jax.random.key(0),
    }
    units = gf.find_units(apply, variables, X)
    keep = {"in/w[1]": np.array([True, False, True, True])}
    file = tmp_path_factory.mktemp("whole") / "model.safetensors"
    gf.save_cut(file, gf.cut(variables, units, keep), units, keep)
    return file.read_bytes(), bits(gf.load_cut(file))


def bits(saved):
    leaves = [
        (path, jax.random.key_data(leaf) if path == "key" else leaf)
        for path, leaf in named_leaves(saved.variables)
    ]
    return (
        {path: (str(leaf.dtype), np.asarray(leaf).tobytes()) for path, leaf in leaves},
        {name: flags.tolist() for name, flags in saved.keep.items()},
        str(saved.indices),
        str(saved.original),
    )


@pytest.fixture
def refused(tmp_path):
    def check(content, message="model.safetensors"):
        file = tmp_path / "model.safetensors"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            gf.load_cut(file)
        assert type(error.value) is ValueError and str(file) in str(error.value)
        assert len(str(error.value)) < 1000

    return check


def test_a_flipped_bit_is_refused_or_changes_nothing(whole, tmp_path):
    raw, expected = whole
    rng, file, accepted = np.random.default_rng(0), tmp_path / "model.safetensors", 0
    header = int.from_bytes(raw[:8], "little")
    # Each byte of the tensors, and as many of the rest.
    positions = [*range(8 + header, len(raw))]
    positions += rng.choice(8 + header, 300, replace=False).tolist()
    for position in positions:
        flipped = bytearray(raw)
        flipped[position] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        try:
            assert bits(gf.load_cut(file)) == expected, position
            accepted += 1
        except ValueError as error:
            assert type(error) is ValueError and str(file) in str(error)
    # A few are of blanks between the words of the header.
    assert accepted < 40


def test_a_file_cut_short_or_with_more_behind_it_is_refused(whole, refused):
    raw, _ = whole
    for length in [0, 1, 7, 8, 9, 50, *range(100, len(raw), 97), len(raw) - 1]:
        refused(raw[:length], "is no safetensors file, or a broken one")
    refused(raw + b"\0", "is no safetensors file, or a broken one: its tensors are")
    refused(raw + raw)


def rewritten(raw, change_header=None, change_record=None, data=None, sign=True):
    """Returns a file with another header or record, whose digest is right."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :] if data is None else data
    record = json.loads(header["__metadata__"][KEY])
    if change_record is not None:
        replaced = change_record(record)
        record = record if replaced is None else replaced
        if sign and isinstance(record, dict) and "sha256" in record:
            places = {k: v["data_offsets"] for k, v in header.items() if k[:2] != "__"}
            tensors = {
                name: np.frombuffer(data[a:b], np.uint8)
                for name, (a, b) in places.items()
            }
            content = {k: v for k, v in record.items() if k != "sha256"}
            record["sha256"] = cut_records._digest(content, tensors)
        text = record if isinstance(record, str) else json.dumps(record)
        header["__metadata__"][KEY] = text
    if change_header is not None:
        replaced = change_header(header)
        header = header if replaced is None else replaced
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def setting(*keys_and_value):
    """Returns what sets an entry, `setting("leaves", "bias", value)`."""
    *keys, last, value = keys_and_value

    def change(tree):
        for key in keys:
            tree = tree[key]
        tree[last] = value

    return change


def removing(*keys):
    def change(tree):
        for key in keys[:-1]:
            tree = tree[key]
        del tree[keys[-1]]

    return change


HUGE = 2**62
RECORDS = {
    "text": lambda r: "{record",
    "a number": lambda r: "7",
    "a list": lambda r: "[]",
    "nothing": lambda r: "null",
    "NaN": lambda r: '{"version": NaN}',
    "a fraction": lambda r: '{"version": 2.0}',
    "a long number": lambda r: '{"version": ' + 5000 * "9" + "}",
    "a name twice": lambda r: '{"version": 1, "version": 2}',
    "deep lists": lambda r: 200_000 * "[",
    "deep lists, closed": lambda r: 5000 * "[" + 5000 * "]",
    "another version": setting("version", 1),
    "a version of text": setting("version", "2"),
    **{
        f"no {part}": removing(part)
        for part in ("version", "leaves", "saved", "keep", "indices", "tree", "sha256")
    },
    "something else": setting("more", 1),
    "a list of leaves": setting("leaves", []),
    "a number of indices": setting("indices", 3),
    "null to keep": setting("keep", None),
    "a leaf of text": setting("leaves", "bias", "float32"),
    "a leaf of no shape": setting("leaves", "bias", [None, "float32"]),
    "a negative size": setting("leaves", "bias", [[-2], "float32"]),
    "a size of a bool": setting("leaves", "bias", [[True], "float32"]),
    "a size of text": setting("leaves", "bias", [["2"], "float32"]),
    "a size beyond all": setting("leaves", "bias", [[2**70], "float32"]),
    "too many axes": setting("leaves", "bias", [[1] * 33, "float32"]),
    "no dtype": setting("leaves", "bias", [[2], "float33"]),
    "a dtype of objects": setting("leaves", "bias", [[2], "object"]),
    "a dtype of code": setting("leaves", "bias", [[2], "f4,(1000000,)f8"]),
    "keys of no generator": setting("leaves", "key", [[], "key:mine"]),
    "saved as another dtype": setting("saved", "bias", [[2], "int32"]),
    "saved as keys": setting("saved", "bias", [[1], "key:threefry2x32"]),
    "saved larger": setting("saved", "bias", [[3], "float32"]),
    "saved without a tensor": setting("saved", "bias2", [[2], "float32"]),
    "a tensor without a record": removing("saved", "bias"),
    "a saved leaf of no model": removing("leaves", "bias"),
    "a larger original": setting("leaves", "in/w", [[HUGE, 4], "float32"]),
    "a larger axis that is cut": setting("leaves", "in/w", [[3, 3], "float32"]),
    "flags of a number": setting("keep", "in/w[1]", 4),
    "flags of a count": setting("keep", "in/w[1]", [HUGE, [0]]),
    "no unit": setting("keep", "in/w[1]", "0000"),
    "other flags": setting("keep", "in/w[1]", "0120"),
    "indices of no axis": setting("indices", "in/w", {"2": [0]}),
    "indices of a negative axis": setting("indices", "in/w", {"-1": [0, 2, 3]}),
    "indices of an axis of another form": setting("indices", "in/w", {"01": [0, 2, 3]}),
    "indices of another axis": setting("indices", "in/w", {"0": [0, 1, 2]}),
    "indices beyond": setting("indices", "in/w", {"1": [0, 2, 4]}),
    "indices far beyond": setting("indices", "in/w", {"1": [0, 2, 10**30]}),
    "indices below": setting("indices", "in/w", {"1": [-1, 2, 3]}),
    "indices that descend": setting("indices", "in/w", {"1": [0, 3, 2]}),
    "indices twice": setting("indices", "in/w", {"1": [0, 2, 2]}),
    "fewer indices": setting("indices", "in/w", {"1": [0, 2]}),
    "no index": setting("indices", "in/w", {"1": []}),
    "indices of flags": setting("indices", "in/w", {"1": [False, True, 2]}),
    "indices of a list": setting("indices", "in/w", [0, 2, 3]),
    "indices of no leaf": setting("indices", "x", {"0": [0]}),
    "no list for a tree": setting("tree", {}),
    "an empty tree": setting("saved_tree", []),
    "a tree of a number": setting("tree", 0, 3),
    "a leaf twice": lambda r: r["saved_tree"].append(r["saved_tree"][0]),
    "a tree without a leaf": lambda r: r["saved_tree"].pop() and None,
    "a leaf of another name": setting("saved_tree", 0, 2, "x"),
    "a leaf of no name": setting("saved_tree", 0, 2, 3),
    "a node of no kind": setting("saved_tree", 0, 0, 0, 0, "set"),
    "a node of two kinds": setting("saved_tree", 0, 0, 0, 0, "list"),
    "a list with a gap": lambda r: [
        entry[0][-1].__setitem__(1, 7)
        for entry in r["saved_tree"]
        if entry[0][-1] == ["list", 1]
    ] and None,
    "an end of no kind": setting("saved_tree", 0, 1, "end"),
    "an end with a name": setting("saved_tree", 0, 1, "list"),
    "a key of a fraction": setting("saved_tree", 0, 0, 0, 1, {"a": 1}),
    "a key of nothing": setting("saved_tree", 0, 0, 0, 1, None),
    "a tree too deep": setting("saved_tree", 0, 0, [["list", 0]] * 100_000),
    "keys that have no order": setting("saved_tree", 0, 0, 0, 1, 3),
    "steps of text": setting("saved_tree", 0, 0, "steps"),
    "a leaf above others": setting("saved_tree", 0, 0, []),
    "something in None": lambda r: [
        entry[0].__setitem__(0, ["none", entry[0][0][1]]) for entry in r["tree"]
    ] and None,
    "two things at one place": lambda r: r["saved_tree"].append(
        [r["saved_tree"][0][0], "dict", None]
    ),
    "text that no tree has": setting("tree", 0, 0, 0, 1, [[[[1]]], {}]),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_contradicts_itself_or_its_tensors_is_refused(
    whole, refused, name
):
    # Whoever writes such a record can compute its digest.
    content = rewritten(whole[0], change_record=RECORDS[name])
    refused(content, "holds no cut model of this version of gradflow_jax, or a broken")


def test_a_record_with_a_digest_of_another_is_refused(whole, refused):
    for change in (setting("keep", "in/w[1]", "1110"), setting("sha256", 64 * "0")):
        content = rewritten(whole[0], change_record=change, sign=False)
        refused(content, "its SHA-256 is another: it is not as it was written")
    assert rewritten(whole[0])[:8] != b""


def moved(header):
    """Lets two tensors be one."""
    header["bias"]["data_offsets"] = header["on"]["data_offsets"]


HEADERS = {
    "a list": lambda h: b"[1, 2]",
    "deep": lambda h: 150_000 * b'{"a":',
    "no text": lambda h: b'{"\xff": 1}',
    "NaN": lambda h: b'{"a": NaN}',
    "a tensor of another name": lambda h: h.update(foreign=h.pop("bias")),
    "a tensor too few": removing("bias"),
    "a tensor of no entry": setting("bias", 3),
    "a tensor without a shape": removing("bias", "shape"),
    "a tensor with more": setting("bias", "more", 1),
    "a dtype that is none": setting("bias", "dtype", "F33"),
    "a dtype of a list": setting("bias", "dtype", ["F32"]),
    "a shape of text": setting("bias", "shape", "2"),
    "a huge shape": setting("bias", "shape", [HUGE, HUGE]),
    "another shape": setting("bias", "shape", [1, 2]),
    "another dtype of that size": setting("bias", "dtype", "I32"),
    "a negative place": setting("bias", "data_offsets", [-8, 0]),
    "a place far away": setting("bias", "data_offsets", [HUGE, HUGE + 8]),
    "a place of three": setting("bias", "data_offsets", [0, 8, 16]),
    "two at one place": moved,
    "metadata of a number": setting("__metadata__", KEY, 7),
    "metadata of a list": setting("__metadata__", []),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_contradicts_the_file_is_refused(whole, refused, name):
    refused(rewritten(whole[0], change_header=HEADERS[name]))


def test_bytes_that_no_number_has_are_refused(whole, refused, tmp_path):
    raw, _ = whole
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    for name, message in (("on", "a bool that is neither"), ("small", "are no int4")):
        begin, _ = header[name]["data_offsets"]
        changed = data[:begin] + b"\x77" + data[begin + 1 :]
        refused(
            rewritten(raw, change_record=lambda record: None, data=changed), message
        )


def test_nothing_is_allocated_by_what_a_file_says(whole, refused):
    records = ("a larger original", "flags of a count", "a size beyond all")
    tracemalloc.start()
    try:
        for name in records:
            refused(rewritten(whole[0], change_record=RECORDS[name]))
        for name in ("a huge shape", "a place far away"):
            refused(rewritten(whole[0], change_header=HEADERS[name]))
        refused((2**40).to_bytes(8, "little") + whole[0][8:], "hold no header of")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_files_of_others_and_what_is_no_file_are_refused(tmp_path):
    file = tmp_path / "model"
    safetensors.flax.save_file({"w": jnp.ones(2)}, file)
    with pytest.raises(ValueError, match=f"{file} holds no cut model: write it by gf"):
        gf.load_cut(file)
    file.write_bytes(b"no safetensors file, but a text")
    with pytest.raises(ValueError, match=f"{file} is no safetensors file, or a broken"):
        gf.load_cut(file)
    # A pipe that nobody writes to would be waited for.
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="it is a device, a pipe or a socket"):
        gf.load_cut(tmp_path / "pipe")


def test_a_file_that_becomes_shorter_is_refused(whole, tmp_path, monkeypatch):
    file = tmp_path / "model"
    file.write_bytes(whole[0])
    monkeypatch.setattr(np, "fromfile", lambda *_: np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="it became shorter while it was read"):
        read_tensors(file)
