"""The page of results beside published figures: `latentlab results RUN RUN ... out=docs/results.md`."""
