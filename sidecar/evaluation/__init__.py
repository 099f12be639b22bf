"""Measuring Standpipe on recorded conversations; see `evaluate`."""
