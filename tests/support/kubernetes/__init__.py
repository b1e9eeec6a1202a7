"""A Kubernetes cluster of the tests' own, of one node.

programs.py builds Kubernetes and its surroundings, sandbox.py makes name spaces, cluster.py runs it there.
"""
