-- Purpose: the ranks of a run on several devices, each beside the slowest and the fullest.
-- Grain: one rank.
-- Parameters: $run_id.
SELECT
    * EXCLUDE (run_id, file_hash),
    latency_s / nullif(max(latency_s) OVER (), 0) AS latency_share,
    memory_peak_bytes / nullif(max(memory_peak_bytes) OVER (), 0) AS memory_share
FROM ranks
WHERE run_id = $run_id::VARCHAR
ORDER BY rank
