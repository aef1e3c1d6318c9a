-- Purpose: runs to choose from, those with operators first.
-- Grain: one run, microbenchmarks last.
-- Parameters: $llm_id, $hardware_id, $source_kind, $phase, NULL for any; $with_ops true for runs that have operators only.
SELECT
    run_id, source_kind, llm_id, llm_name, hardware_id, device, phase, batch, tokens, dtype, variant, source_id, status, collected_at,
    latency_s, counts.num_ops
FROM comparable
LEFT JOIN (SELECT run_id, count(*) AS num_ops FROM module_ops GROUP BY run_id) AS counts USING (run_id)
WHERE ($llm_id::VARCHAR IS NULL OR llm_id = $llm_id::VARCHAR)
    AND ($hardware_id::VARCHAR IS NULL OR hardware_id = $hardware_id::VARCHAR)
    AND ($source_kind::VARCHAR IS NULL OR source_kind = $source_kind::VARCHAR)
    AND ($phase::VARCHAR IS NULL OR phase = $phase::VARCHAR)
    AND (NOT coalesce($with_ops::BOOLEAN, false) OR counts.num_ops > 1)
ORDER BY source_kind = 'measured' DESC, phase = 'microbench', collected_at DESC, llm_name, device, phase, batch_size, run_id
LIMIT 300
