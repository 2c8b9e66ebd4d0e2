"""One replica: scheduler, step loop, executors. A `Backend`."""
