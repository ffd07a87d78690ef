"""A cut on disk: weights, and which of the original units they are.

    cut_files      saves and loads a cut model
    cut_records    what a file says of its tensors, checked before it is believed
    tree_records   a tree of shapes and dtypes in JSON, and the tree from it
    leaf_arrays    leaves as arrays of what a file holds: odd dtypes, random keys
    tensor_files   files of tensors by the library safetensors

Imports the room it is in. To carry leaves of another kind, open `leaf_arrays`.
"""
