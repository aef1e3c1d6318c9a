-- Purpose: the other truths about the configuration of a run: rows with the same config_id; analytical ones of the newest revision
--   of the engine only. `observed_over_estimate` is the time that was observed over the analytical estimate; a source that gives
--   a token rate over all sequences in place of a latency took tokens / rate.
-- Grain: one other run.
-- Parameters: $run_id.
WITH same AS (
    SELECT
        *,
        data_parallel * batch_size AS sequences,
        coalesce(
            CASE WHEN NOT is_bound THEN latency_s END,
            CASE
                WHEN phase IN ('pretrain_step', 'finetune_step', 'prefill')
                    AND map_extract(metric_definitions, 'total_tokens_per_s')[1] = 'tokens_over_duration'
                    THEN sequences * input_tokens / nullif(total_tokens_per_s, 0)
                WHEN phase = 'decode' AND map_extract(metric_definitions, 'output_tokens_per_s')[1] = 'tokens_over_duration'
                    THEN sequences / nullif(output_tokens_per_s, 0)
            END
        ) AS observed_s
    FROM (SELECT * REPLACE (coalesce(data_parallel, 1) AS data_parallel) FROM comparable)
    WHERE config_id = (SELECT config_id FROM runs WHERE run_id = $run_id::VARCHAR)
),
own AS (SELECT source_kind, observed_s, estimate_s FROM same WHERE run_id = $run_id::VARCHAR)
SELECT
    others.run_id, others.source_kind, others.source_id, others.source_cell, others.ruleset, others.device, others.phase, others.batch,
    others.tokens, others.dtype, others.variant, others.execution, others.status,
    CASE WHEN NOT others.is_bound THEN others.latency_s END AS latency_s,
    others.roofline_s, others.estimate_s, others.estimate_lower_s, others.estimate_upper_s,
    CASE
        WHEN others.source_kind = 'analytical' AND own.source_kind <> 'analytical' THEN own.observed_s / others.estimate_s
        WHEN others.source_kind <> 'analytical' AND own.source_kind = 'analytical' THEN others.observed_s / own.estimate_s
    END AS observed_over_estimate,
    others.output_tokens_per_s, others.total_tokens_per_s, others.memory_peak_bytes, others.other_load_ratio,
    others.is_excluded, others.is_bound, others.quality_tier, others.collected_at
FROM same AS others, own
WHERE others.run_id <> $run_id::VARCHAR
    AND others.run_id NOT IN (SELECT run_id FROM outdated)
ORDER BY others.source_kind, others.source_id, others.run_id
LIMIT 200
