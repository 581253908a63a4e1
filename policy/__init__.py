"""NetworkPolicy and ClusterNetworkPolicy: selectors, label index, compiler, evaluator, nft renderer.

Pure: no I/O, no clock, no randomness.
"""
