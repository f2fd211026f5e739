"""Many runs by one plan: a scenario, a grid of settings, processes within the given cores."""
