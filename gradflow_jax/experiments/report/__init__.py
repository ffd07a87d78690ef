"""`gradflow-jax report`: runs of several seeds compared, and the paper's claims tested.

    runs        records on disk, gathered into blocks that can be compared
    orderings   what the paper says of measures
    tables      for the terminal and for Markdown
    drawing     figures
    pages       Markdown and JSON

Imports `reproduction`. To test another claim of the paper, add it to `orderings`.
"""
