"""The gRPC surface: the only place that knows gRPC. Each method checks the caller, calls one thing, answers."""
