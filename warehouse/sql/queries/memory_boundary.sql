-- Purpose: where memory ends: the largest batch that ran (or, max_batch_size, was found to fit) and the smallest that did not, of
--   everything else alike.
-- Grain: one LLM, device, phase, token counts, number format, variant and source; only where something ran out of memory.
-- Parameters: $llm_id, $hardware_id, NULL for any.
SELECT
    llm_id, any_value(coalesce(llm_name, llm_id)) AS llm_name, hardware_id, device, phase, tokens, dtype, variant, source_kind, source_id,
    max(coalesce(max_batch_size, batch_size)) FILTER (WHERE status = 'ok') AS largest_ok,
    min(batch_size) FILTER (WHERE status = 'oom') AS smallest_oom,
    arg_max(run_id, coalesce(max_batch_size, batch_size)) FILTER (WHERE status = 'ok') AS ok_run_id,
    arg_min(run_id, batch_size) FILTER (WHERE status = 'oom') AS oom_run_id,
    max(memory_peak_bytes) FILTER (WHERE status = 'ok') AS memory_peak_bytes,
    arg_max(map_extract(metric_definitions, 'memory_peak_bytes')[1], memory_peak_bytes) FILTER (WHERE status = 'ok') AS memory_definition,
    count(*) AS num_runs
FROM comparable
WHERE source_kind IN ('measured', 'published')
    AND NOT is_excluded
    AND phase <> 'microbench'
    AND llm_id IS NOT NULL
    AND batch_size IS NOT NULL
    AND status IN ('ok', 'oom')
    AND ($llm_id::VARCHAR IS NULL OR llm_id = $llm_id::VARCHAR)
    AND ($hardware_id::VARCHAR IS NULL OR hardware_id = $hardware_id::VARCHAR)
GROUP BY ALL
HAVING smallest_oom IS NOT NULL
ORDER BY source_kind, largest_ok IS NULL, llm_name, device, phase, tokens, dtype, variant
