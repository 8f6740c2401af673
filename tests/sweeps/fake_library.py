"""A library that makes temporary folders when it is imported, one as W&B does, and one as Matplotlib does."""

import atexit
import shutil
import tempfile

FOLDER = tempfile.TemporaryDirectory()
SHARED = tempfile.mkdtemp()
atexit.register(shutil.rmtree, SHARED)
