"""Whole servers over real sockets: what a client can see, and nothing else."""
