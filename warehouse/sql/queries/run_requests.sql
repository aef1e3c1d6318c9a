-- Purpose: requests of an endpoint run.
-- Grain: one request.
-- Parameters: $run_id.
SELECT * EXCLUDE (run_id, chunk_times_s, chunk_tokens)
FROM requests
WHERE run_id = $run_id::VARCHAR
ORDER BY request_index
