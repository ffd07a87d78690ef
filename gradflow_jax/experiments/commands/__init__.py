"""The commands of `gradflow-jax`, each in two files: `x_command` and `x_job`.

    x_command    its options and help, which import no JAX, so help is there at once
    x_job        what it does
    options      what options stand for
    bars         progress in the terminal, stopped by Ctrl-C
    lazy_group   imports a command when it is asked for

`cli` imports this room. To add a command, write `x_command` and `x_job` and a row in
`cli`.
"""
