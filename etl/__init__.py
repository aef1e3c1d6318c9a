"""When, how often, with what retry: Prefect flows, plans, the `rooflake` command line."""
