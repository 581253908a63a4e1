"""The Kubernetes API: access to it, what is asked of it, and what an agent writes there.

Nothing of it is imported, and the official client library neither, unless the objects come from there.
"""
