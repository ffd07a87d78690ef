"""One network: trained, measured, timed.

    architecture   variables and the pure functions of them
    training       training and evaluation, masked or not
    measuring      every measure by name, on the data that the paper gives it
    timing         two functions timed in turn

Imports `data`. To offer a measure in the commands, add it to `measuring.MEASURES` and
its name to `experiments/names.py`.
"""
