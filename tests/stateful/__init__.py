"""State machines: an engine against a plain model, driven by Hypothesis."""
