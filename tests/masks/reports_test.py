"""The report of a mask: its numbers, its table, its HTML."""

import re
import unicodedata
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow_jax as gf


def keeping(kept, *shape):
    """A mask of this shape that keeps so many."""
    return jnp.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) < kept)


def network():
    """Masks of a small convolutional network with normalization."""
    return {
        "conv1": {"kernel": keeping(150, 3, 3, 3, 16)},
        "conv2": {"kernel": keeping(30, 3, 3, 16, 32)},
        "norm1": {"bias": keeping(16, 16), "scale": keeping(16, 16)},
        "head": {"bias": keeping(10, 10), "kernel": keeping(1200, 1568, 10)},
        "temperature": keeping(1),
    }


def display_width(text):
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


class Cells(HTMLParser):
    """The text of the cells of each row."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.open = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open = False

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def table_lines(text):
    """The lines of the table, without those below it."""
    return [line for line in text.splitlines() if not line.startswith("prunable:")]


def table_rows(text):
    """The cells of each line of the table, without rules and empty cells."""
    lines = [line for line in table_lines(text) if set(line) != {"-"}]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def html_rows(report):
    rows = Cells(report._repr_html_()).rows
    return [[cell for cell in row if cell] for row in rows]


def test_both_denominators():
    report = gf.report(network())
    kept = 150 + 30 + 1200
    size = 432 + 4608 + 15680
    assert (report.kept, report.size) == (kept, size)
    assert report.sparsity == pytest.approx(1 - kept / size)
    extra = 16 + 16 + 10 + 1
    assert (report.total_kept, report.total_size) == (
        kept + extra,
        size + extra,
    )
    assert report.total_sparsity == pytest.approx(1 - (kept + extra) / (size + extra))


def test_each_layer():
    layers = {layer.path: layer for layer in gf.report(network()).layers}
    assert list(layers) == [
        "conv1/kernel",
        "conv2/kernel",
        "head/bias",
        "head/kernel",
        "norm1/bias",
        "norm1/scale",
        "temperature",
    ]
    conv = layers["conv1/kernel"]
    assert conv[:5] == ("conv1/kernel", (3, 3, 3, 16), 150, 432, True)
    assert conv.sparsity == pytest.approx(1 - 150 / 432)
    assert not layers["norm1/scale"].prunable and not layers["temperature"].prunable


def test_the_table_by_hand():
    masks = {"bias": keeping(10, 10), "kernel": keeping(100, 40, 50)}
    assert str(gf.report(masks)).splitlines() == [
        "leaf              shape  kept     of    sparsity",
        "------------------------------------------------",
        "bias                 10    10     10  not pruned",
        "kernel            40×50   100  2,000      95.00%",
        "------------------------------------------------",
        "prunable weights          100  2,000      95.00%",
        "all weights               110  2,010      94.53%",
        "prunable: kernels and embeddings, the default",
    ]


@pytest.mark.parametrize(
    "masks",
    [
        network(),
        keeping(3, 2, 3),
        {"x": keeping(0, 1000, 1000), "a_long_name_" * 5: keeping(5, 5)},
        {"empty": keeping(0, 0, 4), "scalar": keeping(1), "kernel": keeping(1, 1, 1)},
        {"größe": keeping(1, 1, 2), "θ": keeping(2, 2)},
    ],
)
def test_all_lines_are_equally_wide(masks):
    lines = table_lines(str(gf.report(masks)))
    assert len({display_width(line) for line in lines}) == 1
    assert len(lines) == len(jax.tree.leaves(masks)) + 5


def test_the_columns_end_together():
    # The header stands over its column: numbers end where their header ends.
    header, _, *lines = table_lines(str(gf.report(network())))
    for name in ("shape", "kept", "of"):
        end = re.search(rf"\b{name}\b", header).end()
        for line in lines:
            assert line[end : end + 2] in ("  ", "--")


@pytest.mark.parametrize("masks", [network(), keeping(3, 2, 3)])
def test_the_html_has_the_same_cells(masks):
    report = gf.report(masks)
    assert html_rows(report) == table_rows(str(report))


def test_the_html_has_five_cells_in_each_row():
    assert {len(row) for row in Cells(gf.report(network())._repr_html_()).rows} == {5}


def test_the_html_escapes_the_names_of_leaves():
    name = "<script>&\"'"
    report = gf.report({name: keeping(1, 1, 2)})
    markup = report._repr_html_()
    assert "<script>" not in markup
    assert "&lt;script&gt;&amp;" in markup
    assert html_rows(report)[1][0] == name


def test_scalar_and_empty_leaves():
    masks = {"empty": keeping(0, 0, 4), "kernel": keeping(1, 1, 2), "t": keeping(1)}
    report = gf.report(masks)
    empty, _, scalar = report.layers
    assert (empty.kept, empty.size, empty.sparsity) == (0, 0, 0.0)
    assert (scalar.shape, scalar.kept, scalar.size) == ((), 1, 1)
    rows = table_rows(str(report))
    assert ["empty", "0×4", "0", "0", "not pruned"] in rows
    assert ["t", "scalar", "1", "1", "not pruned"] in rows


def test_a_bare_array_has_a_name_to_print():
    assert table_rows(str(gf.report(keeping(1, 1, 2))))[1][0] == "(the array)"


def test_prunable_chooses_what_counts():
    masks = {"kernel": keeping(4, 2, 2), "embedding": keeping(4, 2, 4)}
    report = gf.report(masks, prunable=lambda path, leaf: path == "embedding")
    assert (report.kept, report.size, report.sparsity) == (4, 8, 0.5)
    assert (report.total_kept, report.total_size) == (8, 12)


def test_a_leaf_of_which_something_is_removed_counts_as_prunable():
    masks = {"bias": keeping(1, 4), "kernel": keeping(4, 2, 2)}
    report = gf.report(masks)
    assert (report.kept, report.size) == (5, 8)
    assert report.layers[0].prunable


def test_leaves_of_one_name_are_told_apart():
    # Both are "a/b"; the second is not pruned.
    masks = {"a": {"b": keeping(1, 2)}, "a/b": keeping(2, 2)}
    report = gf.report(masks)
    assert [layer.prunable for layer in report.layers] == [True, False]
    assert (report.kept, report.size) == (1, 2)


def test_it_agrees_with_the_masks_made():
    rng = np.random.default_rng(0)
    scores = {"a": rng.random((10, 10)), "bias": rng.random(10)}
    report = gf.report(gf.global_masks(scores, sparsity=0.9))
    assert report.sparsity == pytest.approx(0.9)
    assert report.total_sparsity == pytest.approx(90 / 110)


def test_numpy_masks_are_reported_too():
    assert gf.report(np.array([[True, False]])).sparsity == 0.5


def test_nothing_removed_is_a_sparsity_of_zero():
    report = gf.report({"kernel": keeping(4, 2, 2)})
    assert report.sparsity == report.total_sparsity == 0.0


def test_a_report_equals_one_of_the_same_masks():
    assert gf.report(network()) == gf.report(network())


def test_masks_that_are_not_bool_are_an_error():
    with pytest.raises(TypeError, match=r"masks leaf 'a' is float32\[2,2\], not bool"):
        gf.report({"a": jnp.ones((2, 2))})


def test_no_leaf_is_an_error():
    with pytest.raises(ValueError, match="masks has no leaves"):
        gf.report({})


def test_no_prunable_leaf_is_an_error():
    with pytest.raises(ValueError, match=r"no leaf is prunable among: bias bool\[3\]"):
        gf.report({"bias": keeping(3, 3)})


def test_whether_masks_hold_is_counted_leaf_by_leaf():
    masks = {
        "kernel": keeping(4, 2, 4),
        "bias": keeping(4, 4),
        "head": keeping(2, 2, 2),
    }
    params = jax.tree.map(lambda mask: np.where(mask, 1.0, 0.0).astype("f"), masks)
    params["bias"][:] = 0  # A bias that happens to be 0 is not pruned.
    held = gf.report(masks, params)
    assert held.violations == 0 and [x.violations for x in held.layers] == [0, 0, 0]
    params["kernel"][1] = [-0.3, np.nan, 1e-42, -0.0]
    params["head"][1, 1] = np.inf
    broken = gf.report(masks, params)
    assert {layer.path: layer.violations for layer in broken.layers} == {
        "bias": 0,
        "head": 1,
        "kernel": 3,
    }
    assert broken.violations == 4
    header, _, bias, head, kernel, *_ = str(broken).splitlines()
    assert header.endswith("not 0.0") and head.endswith(" 1") and kernel.endswith(" 3")
    assert html_rows(broken) == table_rows(str(broken))
    assert gf.report(masks).violations is None


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_violations_of_half_precision_are_counted(dtype):
    params = jnp.asarray([[1.0, 0.0, 1e-7, -0.0]], dtype)
    assert gf.report(keeping(1, 1, 4), params).violations == 1


def test_the_masks_of_a_module_are_held_by_the_module():
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    masks = gf.global_masks(gf.magnitude(model), sparsity=0.5)
    assert gf.report(masks, model).violations == 6
    nnx.update(model, gf.prune(nnx.state(model, nnx.Param), masks))
    assert gf.report(masks, model).violations == 0


def test_params_and_scores_of_another_tree_are_an_error():
    masks = {"kernel": keeping(1, 2, 2)}
    for name in ("params", "scores"):
        with pytest.raises(ValueError, match=f"{name} lacks the leaf 'kernel' and has"):
            gf.report(masks, **{name: {"w": np.ones((2, 2), np.float32)}})
        with pytest.raises(TypeError, match=rf"{name} leaf 'kernel' is int"):
            gf.report(masks, **{name: {"kernel": np.ones((2, 2), int)}})
    with pytest.raises(TypeError, match="params are traced .* report outside"):
        jax.jit(lambda p: gf.report(masks, p).violations)({"kernel": jnp.ones((2, 2))})


def last_line(report):
    return str(report).splitlines()[-1]


def test_the_rule_that_counted_is_said():
    masks = {"embed": keeping(8, 2, 4), "head": keeping(1, 2, 2), "bias": keeping(2, 2)}
    by_default = gf.report(masks)
    assert by_default.size == 12
    # An embedding that was left out looks like one that lost nothing.
    assert ["embed", "2×4", "8", "8", "not pruned"] in table_rows(str(by_default))
    assert last_line(by_default) == (
        "prunable: kernels and embeddings, the default; of these are kept whole: embed"
    )
    ignored = gf.report(masks, ignore=["embed"])
    assert (ignored.size, ignored.sparsity) == (4, 0.75)
    assert last_line(ignored).endswith("the default, but for embed")

    def heads(path, leaf):
        return path == "head"

    assert gf.report(masks, prunable=heads).size == 4
    assert last_line(gf.report(masks, prunable=heads)) == (
        "prunable: what prunable=heads says"
    )
    masks["bias"] = keeping(1, 2)
    assert "and what is pruned beside, bias; of these" in last_line(gf.report(masks))
    assert gf.report(masks).rule in gf.report(masks)._repr_html_()


def test_of_many_leaves_three_are_named():
    masks = {str(i): keeping(4, 2, 2) for i in range(9)}
    assert last_line(gf.report(masks)).endswith("kept whole: 0, 1, 2 and 6 more")


def test_the_sparsity_is_that_of_the_report():
    masks = {"kernel": keeping(1, 2, 2), "embed": keeping(4, 2, 2)}
    assert gf.sparsity(masks) == gf.report(masks).sparsity == 0.375
    assert gf.sparsity(masks, ignore="embed") == 0.75
    with pytest.raises(TypeError, match="not bool"):
        gf.sparsity({"kernel": jnp.ones((2, 2))})
