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
    for more in (b"\0", raw):
        refused(raw + more, "is no safetensors file, or a broken one")


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


def bias(tree, value):
    """Sets what a record says of `bias`, in the original or in what is saved."""
    return setting(tree, "dict", 0, 1, value)


def w(value):
    return setting("original", "dict", 1, 1, {"dict": [["w", value]]})


def indices(by_axis):
    return setting("indices", "in/w", by_axis)


def nested(depth):
    """Returns a record of lists in lists."""
    tree = {"float32": [1]}
    for _ in range(depth):
        tree = {"list": [tree]}
    return tree


def deep_list(depth):
    return [deep_list(depth - 1)] if depth else []


HUGE = 2**62
RECORDS = {
    "text": lambda r: "{record",
    "a number": lambda r: "7",
    "a list": lambda r: "[]",
    "nothing": lambda r: "null",
    "NaN": lambda r: '{"version": NaN}',
    "a fraction": lambda r: '{"version": 2.5}',
    "a long number": lambda r: '{"version": ' + 5000 * "9" + "}",
    "a name twice": lambda r: '{"version": 2, "version": 1}',
    "deep lists": lambda r: 200_000 * "[",
    "deep lists, closed": lambda r: 5000 * "[" + 5000 * "]",
    "another version": setting("version", 1),
    "a version of text": setting("version", "2"),
    **{
        f"no {part}": removing(part)
        for part in ("version", "original", "saved", "keep", "indices", "sha256")
    },
    "something else": setting("more", 1),
    "a number of indices": setting("indices", 3),
    "null to keep": setting("keep", None),
    "a leaf of text": bias("original", "float32"),
    "a leaf of no list": bias("original", {"float32": 2}),
    "a leaf of no size": bias("original", {"float32": [None]}),
    "a leaf of two dtypes": bias("original", {"float32": [2], "float16": [2]}),
    "a leaf of nothing": bias("original", {}),
    "a negative size": bias("original", {"float32": [-2]}),
    "a size of a bool": bias("original", {"float32": [True]}),
    "a size of a fraction": bias("original", {"float32": [2.0]}),
    "a size of text": bias("original", {"float32": ["2"]}),
    "a size beyond all": bias("original", {"float32": [2**70]}),
    "too many axes": bias("original", {"float32": [1] * 100_000}),
    "no dtype": bias("original", {"float33": [2]}),
    "a dtype of objects": bias("original", {"object": [2]}),
    "a dtype of code": bias("original", {"f4,(1000000,)f8": [2]}),
    "a dtype of dates": bias("saved", {"datetime64[D]": [2]}),
    "keys of no generator": setting("original", "dict", 2, 1, {"key:mine": []}),
    "saved as another dtype": bias("saved", {"int32": [2]}),
    "saved as bytes": bias("saved", {"int4": [2]}),
    "saved as keys": bias("saved", {"key:threefry2x32": [1]}),
    "saved larger": bias("saved", {"float32": [3]}),
    "a saved leaf of another name": setting("saved", "dict", 0, 0, "bias2"),
    "a saved leaf too many": lambda r: r["saved"]["dict"].append(
        ["x", {"float32": [2]}]
    ),
    "a tensor without a leaf": lambda r: r["saved"]["dict"].pop(0) and None,
    "a saved leaf of no model": lambda r: r["original"]["dict"].pop(0) and None,
    "more numbers than bytes": lambda r: [
        tree["dict"].__setitem__(5, ["small", {"int4": [HUGE, HUGE]}])
        for tree in (r["original"], r["saved"])
    ] and None,
    "more keys than bytes": lambda r: [
        tree["dict"].__setitem__(2, ["key", {"key:rbg": [HUGE, HUGE]}])
        for tree in (r["original"], r["saved"])
    ] and None,
    "a larger original": w({"float32": [HUGE, 4]}),
    "a larger axis that is cut": w({"float32": [3, 5]}),
    "flags of a number": setting("keep", "in/w[1]", 4),
    "flags of a count": setting("keep", "in/w[1]", [HUGE, [0]]),
    "no unit": setting("keep", "in/w[1]", "0000"),
    "no flags": setting("keep", "in/w[1]", ""),
    "other flags": setting("keep", "in/w[1]", "0120"),
    "digits of another script": setting("keep", "in/w[1]", "1\u0661"),
    "indices of no axis": indices({"2": "1"}),
    "indices of a negative axis": indices({"-1": "1011"}),
    "indices of an axis of another form": indices({"01": "1011"}),
    "indices of another axis": indices({"0": "110"}),
    "indices beyond": indices({"1": "10110"}),
    "too few indices": indices({"1": "101"}),
    "fewer indices": indices({"1": "1010"}),
    "no index": indices({"1": "0000"}),
    "indices of numbers": indices({"1": [0, 2, 3]}),
    "indices of a list": indices([0, 2, 3]),
    "indices of no leaf": setting("indices", "x", {"0": "1"}),
    "a list for a tree": setting("original", []),
    "an empty tree": setting("saved", {}),
    "a tree of None": setting("saved", {"none": []}),
    "something in None": setting("saved", {"none": [{"float32": [2]}]}),
    "a node of no kind": setting("saved", {"set": []}),
    "a list of pairs": lambda r: r["saved"].__setitem__(
        "list", r["saved"].pop("dict")
    ),
    "a dict of no pairs": bias("saved", {"dict": [["a"]]}),
    "a dict of a dict": bias("saved", {"dict": {"a": {"float32": [2]}}}),
    "a key twice": lambda r: r["saved"]["dict"].append(r["saved"]["dict"][0]),
    "a key of a fraction": setting("saved", "dict", 0, 0, 1.5),
    "a key of a dict": setting("saved", "dict", 0, 0, {"a": 1}),
    "a key of nothing": setting("saved", "dict", 0, 0, None),
    "a key of odd parts": setting("saved", "dict", 0, 0, ["a", [None]]),
    "a key of many parts": setting("saved", "dict", 0, 0, deep_list(300)),
    "keys that have no order": setting("saved", "dict", 0, 0, 3),
    "a tree too deep": setting("original", nested(101)),
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
    "a dtype that is none": setting("bias", "dtype", "F33"),
    "a dtype of a list": setting("bias", "dtype", ["F32"]),
    "a shape of text": setting("bias", "shape", "2"),
    "a huge shape": setting("bias", "shape", [HUGE, HUGE]),
    "another shape": setting("bias", "shape", [1, 2]),
    "another dtype of that size": setting("bias", "dtype", "I32"),
    "a dtype that NumPy lacks": lambda h: h["small"].update(dtype="F8_E4M3"),
    "a dtype of half a byte": lambda h: h["small"].update(dtype="F4", shape=[4]),
    "more axes than NumPy has": setting("bias", "shape", [2] + [1] * 99),
    "a negative place": setting("bias", "data_offsets", [-8, 0]),
    "a place far away": setting("bias", "data_offsets", [HUGE, HUGE + 8]),
    "a place of three": setting("bias", "data_offsets", [0, 8, 16]),
    "two at one place": moved,
    "no metadata": removing("__metadata__"),
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
    for name, message in (("on", "are no bool"), ("small", "'small' holds bytes that")):
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
        for length in (2**20, 2**40, 2**64 - 1):
            refused(length.to_bytes(8, "little") + whole[0][8:], "or a broken one")
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
