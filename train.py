"""Train an experiment and evaluate it on the test set: `python train.py --help` lists the options."""

from latentlab.cli.train import main

if __name__ == "__main__":
    main()
