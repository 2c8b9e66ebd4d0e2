"""Whether steps that follow a target do as well as the best fixed setting, found by trying all of them."""
