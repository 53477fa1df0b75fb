"""Measurements of speed, in ratios: `make bench`, or `python -m bench --quick`. The figures are in RESULTS.md."""
