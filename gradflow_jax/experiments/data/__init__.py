"""Images: what is read from disk, and what of it networks are trained and scored on.

    dataset          labeled images, and `load`, which finds out what a source is
    by_name          where sets that are asked for by name are found, and digits
    cifar            CIFAR-10 and CIFAR-100 as published
    pickled_batch    their files, without running what a pickle names
    pickle_machine   the operations of pickles that such files need
    idx              the files of the MNIST family
    npz              arrays by name
    image_folder     a folder of images for each class
    archive          tar archives, never unpacked
    regular_files    opens files, checks their sizes and bounds what is decompressed
    pixels           images as networks take them
    augmentation     random crops and flips
    input_pipeline   batches of training images, read ahead
    scoring_data     the images that measures are evaluated on

Imports no other room of `experiments`. To add a format, write its reader, which opens
files by `regular_files` and returns arrays or raises `DataError`, and let
`dataset.load` recognize it; to add a set by its name, open `by_name`.
"""

from gradflow_jax.experiments.data.dataset import Dataset as Dataset
from gradflow_jax.experiments.data.dataset import load as load
from gradflow_jax.experiments.data.dataset import some_of as some_of
from gradflow_jax.experiments.errors import DataError as DataError
