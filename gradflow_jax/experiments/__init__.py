"""What the `gradflow-jax` command runs: data, networks, sweeps, runs, reports.

    data/           images: readers, augmentation, the data that networks are scored on
    networks/       training, measuring and timing one network
    sweep/          `prune`: one trained network, many measures and sparsities
    reproduction/   `reproduce`: the paper's run, pruned in rounds while it is trained
    report/         `report`: runs compared, tables, figures, pages
    commands/       the options of each command, and what it does
    names           networks and measures by name, without importing JAX
    formatting      numbers and lists as a person reads them
    environment     versions and device
    errors          the errors of experiments, each a line
    typed_values    settings and records, checked by the types of their fields

Each room imports those before it; nothing but `cli` imports this one. It needs the
extra `cli`.

## One network, many measures

`gradflow-jax prune` trains a small CNN on real images, scores its weights by every
measure, removes the lowest at several sparsities, fine-tunes what is left through the
masked optimizer, and writes a table, a plot, JSON and CSV. With `--structured` it cuts
filters and neurons out and times what is left.

## The paper, reproduced

    gradflow-jax reproduce --model vgg13 --measure gradient_norm_preservation
        --prune 75 --rounds 5 --data cifar10

trains a VGG-13 as the paper does (160 epochs, momentum 0.9, crops and flips, logits
divided by 5), and after each of the first five epochs ranks the filters of all layers
together and cuts out the lowest: weights, statistics and initial weights are smaller from
then on, and so is every later step; momentum starts anew, or is cut too
(`--momentum keep`). `mobilenet`, `resnet56`, `resnet18` and `resnet34` go the same way;
no line of the pruning knows an architecture.

- Round k of n removes p / (k·p + n·(1 − p)) of the filters that are left, which comes to
  p exactly. Of each layer the best 5 % stay; a ResNet's first convolution stays too, and
  with it the stream of its first stage (`--cut-stem` cuts it). `--published-rules`
  chooses as the authors' release does, which maps what blocks add to the streams to zero
  instead of cutting it, and in ResNets removes more than asked: 68 % for 60 % in 25
  rounds.
- Killed at any moment, the same command goes on from the last epoch and ends with the
  very numbers, bit for bit, on the same machine. A folder of another run, or a damaged
  checkpoint, is refused.
- `gradflow-jax evaluate RUN` tests a saved network, and says how small it is.
  `gradflow-jax report RUNS... --out report` makes tables over seeds, figures and a test
  of what the paper says of the measures, with intervals. `notebooks/results` keeps such a
  report, of small networks on a subset of CIFAR-10.
- `--fast` is a tiny network on a few hundred images. `--width`, `--examples` and
  `--schedule` shrink a run to what your machine can do.

## Data

`--data` takes the archives of CIFAR-10 and CIFAR-100, image folders, tars and `.npz`;
nothing is downloaded. The package ships 6,000 images of Fashion-MNIST (MIT, Zalando SE);
accuracies on this subset are not those of the full set. To add a format, write a reader
in `data/` and have `data.dataset.load` recognize it; a set that has a name stands in
`data/by_name`.
"""
