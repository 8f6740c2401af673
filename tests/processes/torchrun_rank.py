"""A rank of torchrun: the first one in a new interpreter, the others forked from the warm one."""

import os
import sys

from forks import ROOT, forked

if __name__ == "__main__":
    script, *words = sys.argv[1:]
    if os.environ["RANK"] == "0":
        os.execv(sys.executable, [sys.executable, str(ROOT / script), *words])
    done = forked(script, *words, home=ROOT.cwd(), env=os.environ)
    print(done.out, end="")
    print(done.err, end="", file=sys.stderr)
    sys.exit(done.status)
