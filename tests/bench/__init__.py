"""Benches: ratios within one run on one machine, against the design's bars. ``python -m tests.bench --out build``.

Client, server and floors are processes of their own, as in a pod, joined by Unix sockets. A floor is what no
sidecar can be quicker than: a bare grpc.aio server that answers with as many bytes. All sides of a ratio are
measured in turn, in several rounds, and the figure is the median of the rounds' ratios; so a machine that is busy
is busy for all.
"""
