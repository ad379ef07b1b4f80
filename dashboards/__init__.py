"""Grafana's dashboards as code, and Prometheus' rules: `python -m dashboards` writes what is committed beside it.

One module for each dashboard says what it shows; `panels` and `variables` say how ours look. Metrics are named here and
declared in `pipeline/metrics.py` and `scheduler/metrics.py`; the tests read both.
"""
