"""What benchmarks share: servers as processes, bodies to send, programs that send, and forecasters to compare.

Matrices are multiplied by one thread, as in the fleet's services: this must be said before numpy is loaded.
"""

import os

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
