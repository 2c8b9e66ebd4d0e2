"""What the KV cache's price and tiers are worth, on a running server."""
