-- Purpose: what came of every cell of a grid of LLMs, tasks and batch sizes: how it ended, and how long it took where it did.
-- Grain: one device, LLM, task, phase, input length, dtype and batch size of measured runs that name a task; the newest run that ended counts.
-- Parameters: $hardware_id, NULL for every device.
SELECT DISTINCT ON (hardware_id, llm_id, task, phase, input_tokens, dtype, batch_size)
    run_id, hardware_id, device, llm_id, coalesce(llm_name, llm_id) AS llm_name, task, phase, input_tokens, tokens, dtype, batch_size, status, status_detail,
    latency_s, memory_peak_bytes, collected_at
FROM comparable
WHERE source_kind = 'measured'
    AND NOT is_excluded
    AND task IS NOT NULL
    AND llm_id IS NOT NULL
    AND batch_size IS NOT NULL
    AND ($hardware_id::VARCHAR IS NULL OR hardware_id = $hardware_id::VARCHAR)
ORDER BY
    hardware_id, llm_id, task, phase, input_tokens, dtype, batch_size, status NOT IN ('ok', 'oom', 'timeout', 'unsupported'), collected_at DESC, run_id
