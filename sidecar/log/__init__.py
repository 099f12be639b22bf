"""The stored forms of the log: generated from protos/sidecar/log."""
