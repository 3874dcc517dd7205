"""What the benchmarks share: requests, senders, processes on a core of their own, recordings, and ways to compare with.

Matrices are multiplied by one thread, as in the fleet's services: this must be said before numpy is loaded.
"""

import os

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
