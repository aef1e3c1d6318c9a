-- Purpose: what constants of the estimate are fitted to: measured times of configurations whose work the engine has counted, of
--   whole runs and, where a run has ops, of each kind of op. A source that gives a token rate over all sequences in place of a
--   latency took tokens / rate (as in run_twins.sql). Runs without such a time are there too, with the reason.
-- Grain: one run (op_kind NULL) or one kind of op of a run; measured_s is the time of one execution of the phase, over all
--   executions of the kind. Containers do not count, their children do. One run with `left_out`, why it has no time to fit.
-- Parameters: $sources, source ids whose rows count, measured or published, or what stands before a '/' in them (a paper, all its
--   tables); NULL for every measured run.
WITH wanted AS (
    SELECT
        *,
        coalesce(data_parallel, 1) * batch_size AS sequences,
        coalesce(
            latency_s,
            CASE
                WHEN phase = 'prefill' AND map_extract(metric_definitions, 'total_tokens_per_s')[1] = 'tokens_over_duration'
                    THEN sequences * input_tokens / nullif(total_tokens_per_s, 0)
                WHEN phase = 'decode' AND map_extract(metric_definitions, 'output_tokens_per_s')[1] = 'tokens_over_duration'
                    THEN sequences / nullif(output_tokens_per_s, 0)
            END
        ) AS whole_s,
        CASE
            WHEN status <> 'ok' THEN 'their status is ' || status
            WHEN is_excluded THEN 'excluded'
            WHEN phase NOT IN ('forward', 'prefill', 'decode', 'generate')
                THEN 'phase ' || phase || ' (constants are fitted to forward, prefill, decode and generate)'
            WHEN num_devices > 1 AND hardware_id IN (SELECT hardware_id FROM hardware WHERE kind = 'cpu')
                THEN 'several ranks on one processor, which is one device'
            WHEN whole_s IS NULL THEN 'no latency, and no token rate that gives one'
            WHEN config_id NOT IN (SELECT config_id FROM runs WHERE source_kind = 'analytical' AND ruleset = 'default' AND status = 'ok')
                THEN 'no analytical twin of their configuration'
        END AS left_out
    FROM runs
    WHERE CASE
        WHEN $sources::VARCHAR[] IS NULL THEN source_kind = 'measured'
        ELSE source_kind IN ('measured', 'published')
            AND EXISTS (
                SELECT 1
                FROM unnest($sources::VARCHAR[]) AS asked (name)
                WHERE runs.source_id = asked.name OR starts_with(runs.source_id, asked.name || '/')
            )
    END
),
chosen AS (SELECT * FROM wanted WHERE left_out IS NULL),
parents AS (
    SELECT DISTINCT run_id, parent_path AS path
    FROM module_ops AS ops
    WHERE parent_path IS NOT NULL AND parent_path <> path AND run_id IN (SELECT run_id FROM chosen)
),
times AS (
    SELECT run_id, NULL AS op_kind, whole_s AS measured_s FROM chosen
    UNION ALL
    SELECT ops.run_id, ops.op_kind, sum(coalesce(ops.device_time_s, ops.time_s) * ops.count)
    FROM module_ops AS ops
    JOIN chosen USING (run_id)
    LEFT JOIN parents ON parents.run_id = ops.run_id AND parents.path = ops.path
    WHERE parents.path IS NULL AND chosen.source_kind = 'measured'
    GROUP BY ALL
)
SELECT
    wanted.run_id, times.op_kind, times.measured_s, wanted.left_out, wanted.source_id, wanted.other_load_ratio, wanted.execution,
    wanted.config_id, wanted.llm_id, wanted.hardware_id, wanted.num_devices, wanted.tensor_parallel, wanted.pipeline_parallel,
    wanted.data_parallel, wanted.expert_parallel, wanted.interconnect, wanted.phase, wanted.batch_size, wanted.input_tokens,
    wanted.output_tokens, wanted.context_tokens, wanted.weight_dtype, wanted.activation_dtype, wanted.kv_dtype, wanted.attention,
    wanted.optimizations, wanted.prefix_tokens, wanted.chunk_tokens, wanted.num_micro_batches, wanted.optimizer_dtype,
    wanted.gradient_dtype, wanted.lora_rank
FROM wanted
LEFT JOIN times USING (run_id)
WHERE times.measured_s > 0 OR wanted.left_out IS NOT NULL
ORDER BY wanted.run_id, times.op_kind NULLS FIRST
