"""A library that makes a temporary folder when it is imported, as W&B does."""

import tempfile

FOLDER = tempfile.TemporaryDirectory()
