"""The chart, the policies, the images and the pod, with the tools of a cluster and without a cluster: `make test-k8s`.

A test names what it needs with `@pytest.mark.needs("helm4")`, or a module with `pytestmark`: it is skipped, with the
reason in the last lines of the run, where that is not there, and `make test` leaves it out everywhere.
"""
