-- Purpose: what constants of the estimate are fitted to: measured times of configurations whose work the engine has counted, of
--   whole runs and, where a run has ops, of each kind of op.
-- Grain: one run (op_kind NULL) or one kind of op of a run; measured_s is the time of one execution of the phase, over all
--   executions of the kind. Containers do not count, their children do.
-- Parameters: $sources, source ids whose rows count, measured or published, of a paper all its tables; NULL for every measured run.
WITH chosen AS (
    SELECT *
    FROM runs
    WHERE status = 'ok'
        AND NOT is_excluded
        AND phase IN ('forward', 'prefill', 'decode', 'generate')
        AND CASE
            WHEN $sources::VARCHAR[] IS NULL THEN source_kind = 'measured'
            ELSE source_kind IN ('measured', 'published')
                AND (list_contains($sources::VARCHAR[], source_id) OR list_contains($sources::VARCHAR[], split_part(source_id, '/', 1)))
        END
        AND config_id IN (SELECT config_id FROM runs WHERE source_kind = 'analytical' AND ruleset = 'default' AND status = 'ok')
),
parents AS (
    SELECT DISTINCT run_id, parent_path AS path
    FROM ops
    WHERE parent_path IS NOT NULL AND parent_path <> path AND run_id IN (SELECT run_id FROM chosen)
),
times AS (
    SELECT run_id, NULL AS op_kind, latency_s AS measured_s FROM chosen
    UNION ALL
    SELECT ops.run_id, ops.op_kind, sum(coalesce(ops.device_time_s, ops.time_s) * ops.count)
    FROM ops
    JOIN chosen USING (run_id)
    LEFT JOIN parents ON parents.run_id = ops.run_id AND parents.path = ops.path
    WHERE parents.path IS NULL AND chosen.source_kind = 'measured'
    GROUP BY ALL
)
SELECT
    chosen.run_id, times.op_kind, times.measured_s, chosen.source_id, chosen.other_load_ratio, chosen.execution,
    chosen.config_id, chosen.llm_id, chosen.hardware_id, chosen.num_devices, chosen.tensor_parallel, chosen.pipeline_parallel,
    chosen.data_parallel, chosen.expert_parallel, chosen.interconnect, chosen.phase, chosen.batch_size, chosen.input_tokens,
    chosen.output_tokens, chosen.context_tokens, chosen.weight_dtype, chosen.activation_dtype, chosen.kv_dtype, chosen.attention,
    chosen.optimizations, chosen.prefix_tokens, chosen.chunk_tokens, chosen.num_micro_batches, chosen.optimizer_dtype,
    chosen.gradient_dtype, chosen.lora_rank
FROM times
JOIN chosen USING (run_id)
WHERE times.measured_s > 0
ORDER BY chosen.run_id, times.op_kind NULLS FIRST
