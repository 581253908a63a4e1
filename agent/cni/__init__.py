"""Pods as the container runtime wires them: what the CNI plugin tells, and what it needs of this node."""
