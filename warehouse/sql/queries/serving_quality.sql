-- Purpose: quality beside speed: scores of what an LLM answered, each with the throughput of the run that was scored; of an evaluation
--   without a load of its own, with that of the fastest load of the same LLM in the same number format (`speed_from`).
-- Grain: one score.
-- Parameters: $served_id, NULL for every LLM.
WITH scored AS (
    SELECT
        quality.*, comparable.source_kind, comparable.source_id, comparable.llm_id, comparable.dtype, comparable.device, comparable.variant,
        coalesce(comparable.llm_id, comparable.served_model_name, 'not stated') AS served_id,
        coalesce(comparable.llm_name, comparable.llm_id, comparable.served_model_name, 'LLM not stated') AS served_name,
        comparable.output_tokens_per_s / comparable.num_devices AS own_rate
    FROM quality
    JOIN comparable USING (run_id)
    WHERE NOT comparable.is_excluded
),
fastest AS (
    SELECT served_id, dtype, max(output_tokens_per_s_per_device) AS rate, arg_max(run_id, output_tokens_per_s_per_device) AS run_id
    FROM served
    WHERE status = 'ok' AND NOT is_excluded AND output_tokens_per_s_per_device IS NOT NULL
    GROUP BY ALL
)
SELECT
    scored.run_id, scored.served_id, scored.served_name, scored.dtype, scored.device, scored.variant, scored.source_kind, scored.source_id,
    scored.task, scored.metric, scored.value, scored.stderr, scored.is_higher_better, scored.num_samples, scored.num_fewshot,
    coalesce(scored.own_rate, fastest.rate) AS output_tokens_per_s_per_device,
    CASE
        WHEN scored.own_rate IS NOT NULL THEN 'the run that was scored'
        WHEN fastest.rate IS NOT NULL THEN 'the fastest load of the same LLM and format'
    END AS speed_from,
    CASE WHEN scored.own_rate IS NOT NULL THEN scored.run_id ELSE fastest.run_id END AS speed_run_id
FROM scored
LEFT JOIN fastest USING (served_id, dtype)
WHERE ($served_id::VARCHAR IS NULL OR served_id = $served_id::VARCHAR)
ORDER BY scored.task, scored.metric, scored.value DESC, scored.run_id
LIMIT 2000
