"""Late arrivals of flights out of New York: the first use case."""
