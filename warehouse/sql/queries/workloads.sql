-- Purpose: what can be compared: every workload that has rows, first those on several devices whose one metric
--   several kinds of truth know, then by kinds, then by devices. A row whose source does not state all of its workload counts
--   in each workload that it agrees with, as `compare` shows it there.
-- Grain: one LLM, phase, batch size, token counts (`any`: all of them together) and number format (`dtypes`: those put together).
-- Parameters: $llm_id, NULL for every LLM; $hardware_ids, NULL for all.
WITH usable AS (
    SELECT
        llm_id, llm_name, phase, batch, batch_size, tokens, token_parts, number_format, dtype, unstated, device, source_kind,
        context_tokens, input_tokens, latency_s, total_tokens_per_s, output_tokens_per_s, memory_peak_bytes
    FROM comparable
    WHERE llm_id IS NOT NULL
        AND NOT is_excluded
        AND run_id NOT IN (SELECT run_id FROM outdated)
        AND ($llm_id::VARCHAR IS NULL OR llm_id = $llm_id::VARCHAR)
        AND ($hardware_ids::VARCHAR[] IS NULL OR list_contains($hardware_ids::VARCHAR[], hardware_id))
),
stated AS (SELECT DISTINCT llm_id, phase, batch, tokens, number_format FROM usable),
placed AS (
    SELECT * FROM usable
    UNION ALL
    SELECT usable.* REPLACE (stated.batch AS batch, stated.tokens AS tokens, stated.number_format AS number_format)
    FROM usable
    JOIN stated USING (llm_id, phase)
    WHERE len(usable.unstated) > 0
        AND (stated.batch = usable.batch OR usable.batch_size IS NULL)
        AND (
            stated.tokens = usable.tokens
            OR (list_contains(usable.unstated, 'tokens') AND list_has_all(string_split(stated.tokens, ', '), usable.token_parts))
        )
        AND (stated.number_format = usable.number_format OR list_contains(usable.unstated, 'number format'))
        AND (stated.batch, stated.tokens, stated.number_format) <> (usable.batch, usable.tokens, usable.number_format)
)
SELECT *
FROM (
    SELECT
        llm_id,
        coalesce(any_value(llm_name), llm_id) AS llm_name,
        phase,
        batch,
        coalesce(tokens, 'any') AS tokens,
        number_format AS dtype,
        greatest(
            count(DISTINCT source_kind) FILTER (WHERE latency_s IS NOT NULL),
            count(DISTINCT source_kind) FILTER (WHERE total_tokens_per_s IS NOT NULL),
            count(DISTINCT source_kind) FILTER (WHERE output_tokens_per_s IS NOT NULL),
            count(DISTINCT source_kind) FILTER (WHERE memory_peak_bytes IS NOT NULL)
        ) AS num_kinds,
        count(DISTINCT device) AS num_devices,
        count(*) AS num_runs,
        string_agg(DISTINCT source_kind, ', ' ORDER BY source_kind) AS source_kinds,
        list_sort(list(DISTINCT placed.dtype)) AS dtypes,
        min(batch_size) AS batch_size,
        min(coalesce(context_tokens, input_tokens)) AS num_tokens
    FROM placed
    GROUP BY GROUPING SETS ((llm_id, phase, batch, tokens, number_format), (llm_id, phase, batch, number_format))
)
ORDER BY num_kinds > 1 AND num_devices > 1 DESC, num_kinds DESC, tokens IN ('any', 'not stated'), num_devices DESC, num_runs DESC, llm_id, phase, batch_size,
    num_tokens, dtype
