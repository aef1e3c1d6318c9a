-- Purpose: training steps by their phases, with what is left of the step when forward, backward and optimizer are taken away.
-- Grain: one run that has a step time, a part of one or a token rate.
-- Parameters: $llm_id, $hardware_id, $phase, NULL for any.
SELECT
    run_id, source_kind, source_id, source_cell, llm_id, llm_name, hardware_id, device, num_devices, phase, batch_size, batch, input_tokens,
    tokens, dtype, optimizations, lora_rank, num_micro_batches, variant, status, is_bound, other_load_ratio,
    CASE WHEN NOT is_bound THEN latency_s END AS step_s,
    forward_s, backward_s, optimizer_s, communication_s,
    greatest(step_s - coalesce(forward_s, 0) - coalesce(backward_s, 0) - coalesce(optimizer_s, 0), 0) AS rest_s,
    total_tokens_per_s, memory_peak_bytes, mfu, mfu_achievable, collected_at,
    map_extract(metric_definitions, 'total_tokens_per_s')[1] AS rate_definition,
    map_extract(metric_definitions, 'memory_peak_bytes')[1] AS memory_definition
FROM comparable
WHERE phase IN ('pretrain_step', 'finetune_step')
    AND source_kind IN ('measured', 'published')
    AND NOT is_excluded
    AND coalesce(step_s, forward_s, backward_s, optimizer_s, total_tokens_per_s) IS NOT NULL
    AND ($llm_id::VARCHAR IS NULL OR llm_id = $llm_id::VARCHAR)
    AND ($hardware_id::VARCHAR IS NULL OR hardware_id = $hardware_id::VARCHAR)
    AND ($phase::VARCHAR IS NULL OR phase = $phase::VARCHAR)
ORDER BY source_kind, coalesce(forward_s, backward_s, optimizer_s) IS NULL, llm_name, device, phase, variant, batch_size, run_id
LIMIT 1000
