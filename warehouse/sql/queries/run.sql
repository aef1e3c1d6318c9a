-- Purpose: one run with the names of its LLM, device and source.
-- Grain: one run, all columns.
-- Parameters: $run_id.
SELECT * FROM comparable WHERE run_id = $run_id::VARCHAR
