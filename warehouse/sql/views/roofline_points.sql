-- Purpose: runs as points under a roof. A run that does not know its bytes takes FLOPs and bytes of its analytical twin (same
--   config_id, ruleset default, the newest revision of the engine) and says so in `work_from`.
--   Microbenchmarks are not among them: the query `microbench_points` sets each against its roof.
-- Grain: one run that has a time and a known work.
SELECT *
FROM (
    SELECT
        c.run_id, c.source_kind, c.source_id, c.llm_id, c.llm_name, c.hardware_id, c.device, c.phase, c.batch, c.tokens, c.dtype,
        c.variant, c.is_excluded, c.is_bound, c.latency_s, c.bound, c.other_load_ratio,
        coalesce(c.activation_dtype, c.weight_dtype) AS roof_dtype,
        coalesce(c.num_devices, 1) AS num_devices,
        c.flops IS NOT NULL AND c.bytes_moved IS NOT NULL AS has_work,
        CASE WHEN has_work THEN 'own' ELSE 'analytical twin' END AS work_from,
        CASE WHEN has_work THEN c.flops ELSE twins.flops END AS flops,
        CASE WHEN has_work THEN c.bytes_moved ELSE twins.bytes_moved END AS bytes_moved
    FROM comparable AS c
    LEFT JOIN (
        SELECT config_id, any_value(flops) AS flops, any_value(bytes_moved) AS bytes_moved
        FROM runs
        WHERE source_kind = 'analytical' AND ruleset = 'default' AND run_id NOT IN (SELECT run_id FROM outdated)
        GROUP BY config_id
    ) AS twins USING (config_id)
    WHERE c.latency_s > 0
        AND c.phase <> 'microbench'
        AND (c.ruleset IS NULL OR c.ruleset = 'default')
        AND c.run_id NOT IN (SELECT run_id FROM outdated)
)
WHERE flops > 0 AND bytes_moved > 0
