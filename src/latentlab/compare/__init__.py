"""Several runs in one figure or table: `latentlab compare RUN RUN ... out=FILE`."""

from latentlab.compare.curves import curves
from latentlab.compare.rate_distortion import rate_distortion
from latentlab.compare.table import table

__all__ = ["curves", "rate_distortion", "table"]
