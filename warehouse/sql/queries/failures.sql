-- Purpose: what did not come out: failed runs and rows kept out of charts, with the reason.
-- Grain: one run, analytical ones last; at most 1000.
-- Parameters: $source_id, NULL for every source.
SELECT
    run_id, source_kind, source_id, source_cell, llm_id, hardware_id, phase, batch_size, status,
    coalesce(exclusion_reason, status_detail) AS reason, is_excluded, collected_at
FROM runs
WHERE (status <> 'ok' OR is_excluded)
    AND ($source_id::VARCHAR IS NULL OR source_id = $source_id::VARCHAR)
ORDER BY is_excluded DESC, source_kind = 'analytical', collected_at DESC, run_id
LIMIT 1000
