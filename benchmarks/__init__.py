"""Speed, side by side with the usual way; each writes JSON (`python -m benchmarks.NAME --output FILE`)."""
