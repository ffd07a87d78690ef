"""Names of networks and measures, without the code behind them, which imports JAX.

The options of commands offer these names, and `--help` must not wait for JAX. What they
name stands in `models.MODELS`, in the same order, and `measuring.MEASURES`, which is
made of them.
"""

MODEL_NAMES = ("vgg13", "mobilenet", "resnet56", "resnet18", "resnet34")

SMALL_CNN = "cnn"
"""The network of `prune`, which is none of the paper's."""

MEASURE_NAMES = (
    "magnitude",
    "magnitude_1_norm",
    "loss_preservation",
    "biased_loss_preservation",
    "biased_from_init",
    "taylor",
    "fisher",
    "fisher_per_example",
    "grasp",
    "gradient_norm_preservation",
    "batch_norm_scale",
    "batch_norm_taylor",
    "random",
)

WEIGHT_MEASURES = tuple(name for name in MEASURE_NAMES if name != "magnitude_1_norm")
"""The measures of single weights: of one weight the 1-norm is the magnitude itself."""

PAPER_MEASURES = (
    "magnitude",
    "loss_preservation",
    "biased_loss_preservation",
    "grasp",
    "gradient_norm_preservation",
)
"""The five that the paper is about."""
