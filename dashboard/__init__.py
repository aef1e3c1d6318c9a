"""The web application: pages over named queries, pure figures, everything served locally."""
