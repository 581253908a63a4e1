"""Everything that touches the kernel: links, routes, nexthop objects, nftables, sysctls.

Knows neither Kubernetes nor BGP: it is told a desired state and makes the kernel have it.
"""
