"""Our table in nf_tables: written, read back, compared, watched, and what it drops.

`enforcement` keeps the kernel's table as it should be, through the Protocol in `table`; structure is text that
libnftables compiles (`library`), elements are raw netlink (`elements`, `batch`). What the text says is no matter here.
"""
