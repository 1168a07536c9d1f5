"""The demo: a counter, and notes for those who sign in. ``python -m demo`` and open http://localhost:9090."""
