"""The benchmarks of asidecar, side by side with other caches; benches/run.py is how they are started."""
