"""Standpipe's Python client."""
