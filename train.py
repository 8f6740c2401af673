"""Train an experiment and evaluate it on the test set: `python train.py --help` lists the options."""

from latentlab.cli.train import main

# Hydra's completion in fish looks for the word @hydra.main in a script.
if __name__ == "__main__":
    main()
