"""`latentlab COMMAND ...`: the commands of the package. `python -m latentlab COMMAND ...` is the same.

A command is imported when it is chosen, so that --help and a mistyped name are answered at once.
"""

import os
import re
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from runpy import run_module

from latentlab.cli.screen import show_help, warn
from latentlab.errors import did_you_mean

# The commands that Hydra configures, and those with options of their own.
CONFIGURED = {
    "train": "train an experiment and evaluate it on the test set",
    "evaluate": "evaluate a run over the whole test set, with its NLL and figures",
}
COMMANDS = CONFIGURED | {
    "compare": "draw several runs in one figure, or print their results as a table",
    "results": "write a page of results beside published figures",
    "classifier": "train the classifier whose features the FID compares",
    "zoo": "list the trained models that come with the package or lie in a folder, or add one",
    "dashboards": "make a dashboard of a W&B project",
}
HELP = ("-h", "--help", "help")
COMPLETION = ("-sc", "--shell-completion")


def main() -> None:
    """Run the command that the first word names."""
    first, *rest = sys.argv[1:] or ["--help"]
    if first in HELP:
        show_help(_usage())
    elif first == "--version":
        print(f"latentlab {version('latentlab')}")
    elif first in COMPLETION:
        complete(rest)
    elif first in COMMANDS:
        run(first, rest)
    else:
        warn(f"error: {_unknown(first)}")
        sys.exit(1)


def run(name: str, words: list[str]) -> None:
    """Run a command with its words, in this process."""
    program = "python -m latentlab" if Path(sys.argv[0]).name == "__main__.py" else "latentlab"
    sys.argv = [f"{program} {name}", *words]  # `cli.script` reads both words
    if name in CONFIGURED:
        import_module(f"latentlab.cli.{name}").main()
    else:
        run_module(f"latentlab.{name}", run_name="__main__")


def complete(words: list[str]) -> None:
    """Print the script of Hydra that completes command lines in a shell, or the words that complete this one.

    The script calls `latentlab -sc query=SHELL` with the line in the environment variable COMP_LINE. Hydra completes
    the words of a script, so the name of the command is taken out of the line.
    """
    line = os.environ.get("COMP_LINE", "")
    found = re.match(r"\s*\S+\s+(\S+)\s+(.*)", line, re.DOTALL)
    if not words[:1] or not words[0].startswith("query="):
        sys.argv = ["latentlab", "--shell-completion", *words]
        import_module("latentlab.cli.train").main()
    elif found is None:
        start = "".join(line.split()[1:])
        print("\n".join(name for name in COMMANDS if name.startswith(start)))
    elif found[1] in CONFIGURED:
        os.environ["COMP_LINE"] = f"latentlab {found[2]}"
        run(found[1], ["--shell-completion", *words])


def _usage() -> str:
    commands = "\n".join(f"  latentlab {name:11} {purpose}" for name, purpose in COMMANDS.items())
    return (
        f"latentlab trains latent-variable models and evaluates them.\n\n{commands}\n\n"
        "  latentlab COMMAND --help  the options of a command\n"
        "  latentlab --version       the version\n\n"
        'Completion in bash: eval "$(latentlab -sc install=bash)"'
    )


def _unknown(word: str) -> str:
    if re.match(r"[\w./+~@]+=|-", word):
        return f"{word}: the first word is a command: type latentlab train {word}"
    return f"{word}: no such command{did_you_mean(word, COMMANDS)} (latentlab --help lists them)"


if __name__ == "__main__":
    main()
