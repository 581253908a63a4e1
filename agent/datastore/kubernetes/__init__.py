"""The datastore that is the Kubernetes API: every kind listed once, then watched.

`reflector` keeps up with one kind, `wire` reads the few fields used out of what comes, `demand` says which pods and
Secrets are wanted at all, `datastore` puts it together behind the same Protocol as a directory of manifests.
"""
