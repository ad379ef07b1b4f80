"""Quantiles of histograms, all their series together."""


def over_time(quantile: float, histogram: str) -> str:
    """As it changes: of what was observed within the rate interval."""
    return f"histogram_quantile({quantile:g}, sum by (le) (rate({histogram}_bucket[$__rate_interval])))"


def over_range(quantile: float, histogram: str) -> str:
    """One number: of all that was observed in the time that is shown."""
    return f"histogram_quantile({quantile:g}, sum by (le) (increase({histogram}_bucket[$__range])))"
