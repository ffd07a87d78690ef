"""Images: what is read from disk, and what of it networks are trained and scored on.

    dataset          labeled images, and `load`, which finds out what a source is
    by_name          where sets that are asked for by name are found
    cifar            CIFAR-10 and CIFAR-100 as published
    pickled_batch    reads their files without running what a pickle names
    idx              the files of the MNIST family
    image_folder     a folder of images for each class
    digits           scikit-learn's digits
    archive          tar archives, never unpacked
    errors           the errors of experiments
    pixels           images as networks take them
    augmentation     random crops and flips
    input_pipeline   batches of training images, read ahead
    scoring_data     the images that measures are evaluated on

Imports no other room of `experiments`. To add a format, write its reader, which returns
arrays or raises `DataError`, and let `dataset.load` recognize it; to add a set by its
name, open `by_name`.
"""
