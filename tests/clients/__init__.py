"""Tests of the clients, of all languages."""
