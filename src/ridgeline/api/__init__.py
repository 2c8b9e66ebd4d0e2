"""The OpenAI-compatible HTTP surface; talks to a `Backend` and knows neither engine nor fleet."""
