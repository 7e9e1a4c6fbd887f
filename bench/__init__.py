"""Benchmarks: archives with known content, throughput, memory, peers."""
