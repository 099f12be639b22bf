"""Stubs generated from protos/standpipe/v1; `make proto` writes them."""
