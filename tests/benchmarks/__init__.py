"""How fast sessions are, measured side by side: ``python -m tests.benchmarks``."""
