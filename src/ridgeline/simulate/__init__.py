"""What would have been: policies on recorded requests, without a model and without waiting."""
