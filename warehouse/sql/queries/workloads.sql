-- Purpose: what can be compared: every workload that has rows, first those on several devices whose one metric
--   several kinds of truth know, then by kinds, then by devices.
-- Grain: one LLM, phase, batch size, token counts (`any`: all of them together) and dtype.
-- Parameters: $llm_id, NULL for every LLM; $hardware_ids, NULL for all.
SELECT *
FROM (
    SELECT
        llm_id,
        coalesce(any_value(llm_name), llm_id) AS llm_name,
        phase,
        batch,
        coalesce(tokens, 'any') AS tokens,
        dtype,
        greatest(
            count(DISTINCT source_kind) FILTER (WHERE latency_s IS NOT NULL),
            count(DISTINCT source_kind) FILTER (WHERE total_tokens_per_s IS NOT NULL),
            count(DISTINCT source_kind) FILTER (WHERE output_tokens_per_s IS NOT NULL),
            count(DISTINCT source_kind) FILTER (WHERE memory_peak_bytes IS NOT NULL)
        ) AS num_kinds,
        count(DISTINCT device) AS num_devices,
        count(*) AS num_runs,
        string_agg(DISTINCT source_kind, ', ' ORDER BY source_kind) AS source_kinds,
        min(batch_size) AS batch_size,
        min(coalesce(context_tokens, input_tokens)) AS num_tokens
    FROM comparable
    WHERE llm_id IS NOT NULL
        AND NOT is_excluded
        AND ($llm_id::VARCHAR IS NULL OR llm_id = $llm_id::VARCHAR)
        AND ($hardware_ids::VARCHAR[] IS NULL OR list_contains($hardware_ids::VARCHAR[], hardware_id))
    GROUP BY GROUPING SETS ((llm_id, phase, batch, tokens, dtype), (llm_id, phase, batch, dtype))
)
ORDER BY num_kinds > 1 AND num_devices > 1 DESC, num_kinds DESC, tokens = 'any', num_devices DESC, num_runs DESC, llm_id, phase, batch_size, num_tokens, dtype
