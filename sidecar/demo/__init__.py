"""The demonstration: a written conversation, played against a real server through its public API."""
