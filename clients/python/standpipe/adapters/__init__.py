"""Standpipe behind the interfaces that other frameworks have. Each module needs the extra of its name."""
