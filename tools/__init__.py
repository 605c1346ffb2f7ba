"""What is done around the bundles: `python -m tools VERB`, or `scintikit VERB` from any folder."""
