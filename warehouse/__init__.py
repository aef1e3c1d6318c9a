"""The contract (schema, metrics, catalog, parquet: standard library and pyarrow only) and the store (DuckDB)."""
