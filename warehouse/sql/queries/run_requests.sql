-- Purpose: requests of an endpoint run; when each chunk came is not among their columns.
-- Grain: one request; the first $most, all unless given.
-- Parameters: $run_id, $most.
SELECT * EXCLUDE (run_id, chunk_times_s, chunk_tokens)
FROM requests
WHERE run_id = $run_id::VARCHAR
ORDER BY request_index
LIMIT coalesce($most::BIGINT, 9223372036854775807)
