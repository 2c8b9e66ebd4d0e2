"""Tiers below the device's memory: where copies of KV blocks are kept, and the threads that move them."""
