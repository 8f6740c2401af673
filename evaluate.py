"""Evaluate a checkpoint over the whole test set: `python evaluate.py --help` lists the options."""

from latentlab.cli.evaluate import main

# Hydra's completion in fish looks for the word @hydra.main in a script.
if __name__ == "__main__":
    main()
