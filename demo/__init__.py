"""The demo: counts a visitor's visits. ``python -m demo`` and open http://localhost:9090."""
