"""What the benchmarks share: requests, senders, processes on a core of their own, and ways to compare with."""
