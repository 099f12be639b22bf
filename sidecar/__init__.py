"""Standpipe's server: the context sidecar for LLM inference pods."""
