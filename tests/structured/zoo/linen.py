"""The zoo's Linen modules, with random weights and statistics."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.structured.zoo.plain import IMAGES, ROWS, SERIES, TOKENS, Case, fill

ZOO: dict[str, Callable[[], Case]] = {}
# Functions that return (module, variables, inputs).
MODULES: dict[str, Callable[[], tuple]] = {}


def entry(x, mutable=False):
    """Registers the module that a function returns, given the shape of its input."""

    def register(function):
        name = function.__name__

        def build():
            module, inputs = (
                function(),
                (jnp.asarray(fill({"input": x}, name)["input"]),),
            )
            shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
            return module, fill(shapes, name), inputs

        def case():
            module, variables, inputs = build()
            return Case(
                lambda v, x: module.apply(v, x, mutable=mutable), variables, inputs
            )

        MODULES[name], ZOO[name] = build, case
        return function

    return register


def norm(train=False):
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)


def small(width, **how):
    return nn.Conv(width, (3, 3), **how)


@entry(ROWS)
def mlp():
    return nn.Sequential([nn.Dense(7), nn.relu, nn.Dense(9), nn.gelu, nn.Dense(3)])


@entry(IMAGES)
def vgg_bn_flatten():
    class VGG(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (5, 7):
                x = nn.relu(norm()(small(width)(x)))
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.relu(nn.Dense(9)(x.reshape(len(x), -1)))
            return nn.Dense(3)(x)

    return VGG()


@entry(IMAGES)
def resnet():
    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(norm()(small(6)(x)))
            for inner, width, stride in ((5, 6, 1), (7, 9, 2), (8, 9, 1)):
                y = nn.relu(norm()(small(inner, strides=stride, use_bias=False)(x)))
                y = norm()(small(width)(y))
                if x.shape != y.shape:
                    x = norm()(nn.Conv(width, (1, 1), strides=stride)(x))
                x = nn.relu(x + y)
            return nn.Dense(3)(x.mean((1, 2)))

    return ResNet()


@entry(IMAGES)
def mobilenet():
    class MobileNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu6(norm()(small(5)(x)))
            for width, expanded in ((5, 8), (7, 11)):
                y = nn.relu6(norm()(nn.Conv(expanded, (1, 1))(x)))
                y = small(y.shape[3], feature_group_count=y.shape[3])(y)
                y = norm()(nn.Conv(width, (1, 1))(nn.relu6(norm()(y))))
                x = x + y if x.shape == y.shape else y
            return nn.Dense(3)(x.mean((1, 2)))

    return MobileNet()


@entry(IMAGES)
def group_norm_net():
    class GroupNormNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.GroupNorm(num_groups=2)(small(8)(x)))
            x = nn.relu(nn.GroupNorm(num_groups=3)(small(12)(x)))
            return nn.Dense(3)(x.mean((1, 2)))

    return GroupNormNet()


class Block(nn.Module):
    """A pre-norm transformer block."""

    heads: int
    qkv: int
    hidden: int
    norm: Callable = nn.LayerNorm

    @nn.compact
    def __call__(self, x, mask=None):
        attention = nn.MultiHeadDotProductAttention(self.heads, qkv_features=self.qkv)
        x = x + attention(self.norm()(x), mask=mask)
        hidden = nn.gelu(nn.Dense(self.hidden)(self.norm()(x)))
        return x + nn.Dense(x.shape[-1])(hidden)


@entry(IMAGES)
def vit():
    class ViT(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (4, 4), strides=4)(x).reshape(len(x), 4, -1)
            cls = self.param("cls", nn.initializers.normal(), (1, 1, x.shape[2]))
            x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
            where = self.param("positions", nn.initializers.normal(), (1, *x.shape[1:]))
            x = x + where
            for heads, qkv, hidden in ((2, 12, 11), (3, 15, 13)):
                x = Block(heads, qkv, hidden)(x)
            return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])

    return ViT()


@entry(TOKENS)
def transformer_lm_tied():
    class LM(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(11, 8)
            x = embed(tokens)
            for heads, qkv, hidden in ((2, 12, 10), (3, 15, 13)):
                block = Block(heads, qkv, hidden, norm=nn.RMSNorm)
                x = block(x, nn.make_causal_mask(tokens))
            return embed.attend(nn.RMSNorm()(x))

    return LM()


@entry(SERIES)
def dense_general_heads():
    return nn.Sequential(
        [
            nn.Dense(7),
            nn.DenseGeneral((2, 6)),
            jnp.tanh,
            nn.DenseGeneral(9, axis=(-2, -1)),
            nn.relu,
            nn.Dense(3),
        ]
    )


@entry(SERIES)
def lstm():
    return nn.Sequential([nn.RNN(nn.OptimizedLSTMCell(7)), nn.Dense(3)])


@entry(SERIES)
def lstm_cell():
    return nn.Sequential([nn.Dense(6), nn.RNN(nn.LSTMCell(7)), nn.Dense(3)])


@entry(SERIES)
def gru():
    return nn.Sequential([nn.RNN(nn.GRUCell(7)), nn.Dense(3)])


@entry(IMAGES)
def conv_transpose_unet():
    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            a = nn.relu(norm()(small(4)(x)))
            b = nn.relu(norm()(small(6, strides=2)(a)))
            c = nn.relu(small(9, strides=2)(b))
            b = jnp.concatenate([b, nn.ConvTranspose(7, (2, 2), (2, 2))(c)], axis=3)
            b = nn.relu(small(10)(b))
            a = jnp.concatenate([a, nn.ConvTranspose(8, (2, 2), (2, 2))(b)], axis=3)
            return nn.Conv(3, (1, 1))(nn.relu(small(5)(a)))

    return UNet()


class Step(nn.Module):
    """A residual block that nn.scan can repeat."""

    hidden: int

    @nn.compact
    def __call__(self, x, _):
        hidden = nn.relu(nn.Dense(self.hidden)(nn.RMSNorm()(x)))
        return x + nn.Dense(x.shape[-1])(hidden), None


@entry(ROWS)
def scan_blocks():
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            how = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            x, _ = nn.scan(Step, length=3, **how)(11)(nn.Dense(8)(x), None)
            return nn.Dense(3)(x)

    return Scanned()


@entry(ROWS)
def remat_block():
    class Remat(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8)(x)
            for hidden in (9, 11):
                x, _ = nn.remat(Step)(hidden)(x, None)
            return nn.Dense(3)(x)

    return Remat()


@entry(IMAGES, mutable=["batch_stats"])
def batch_norm_train():
    class Train(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(norm(train=True)(small(6)(x)))
            x = nn.relu(norm(train=True)(small(7)(x)))
            return nn.Dense(3)(x.mean((1, 2)))

    return Train()
