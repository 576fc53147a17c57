"""Imported last by the fork server: what it has imported is never looked at by the garbage collector again.

A collection writes to every object it visits, and so would copy the pages that workers share with the fork server.
"""

import gc

gc.collect()
gc.freeze()
