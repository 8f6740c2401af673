"""Evaluate a checkpoint over the whole test set: `python evaluate.py --help` lists the options."""

from latentlab.cli.evaluate import main

if __name__ == "__main__":
    main()
