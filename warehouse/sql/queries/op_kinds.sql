-- Purpose: where the time goes, by kind of operator: a run beside the default analytical bound and estimate of the same configuration.
--   Of several execution profiles the one of the run counts.
-- Grain: one run (the one asked for, or its analytical twin) and kind of operator; sums over leaves, folded ones multiplied out.
-- Parameters: $run_id.
WITH chosen AS (
    SELECT run_id, source_kind, ruleset, 'run' AS role FROM runs WHERE run_id = $run_id::VARCHAR
    UNION ALL
    (
        SELECT twin.run_id, twin.source_kind, twin.ruleset, 'bound' AS role
        FROM runs AS twin
        JOIN runs AS own ON own.config_id = twin.config_id
        WHERE own.run_id = $run_id::VARCHAR
            AND twin.run_id <> own.run_id
            AND twin.source_kind = 'analytical'
            AND twin.ruleset = 'default'
            AND own.ruleset IS DISTINCT FROM 'default'
            AND twin.run_id IN (SELECT run_id FROM module_ops AS ops)
        ORDER BY
            twin.engine_revision DESC NULLS LAST, twin.execution IS NOT DISTINCT FROM own.execution DESC, twin.collected_at DESC,
            twin.run_id
        LIMIT 1
    )
),
parents AS (
    SELECT DISTINCT run_id, parent_path AS path
    FROM module_ops AS ops JOIN chosen USING (run_id)
    WHERE parent_path IS NOT NULL AND parent_path <> path
)
SELECT
    chosen.run_id,
    chosen.role,
    chosen.source_kind,
    ops.op_kind,
    sum(coalesce(ops.time_s, ops.device_time_s, ops.roofline_s) * ops.count) AS time_s,
    sum(ops.roofline_s * ops.count) AS roofline_s,
    sum(ops.estimate_s * ops.count) AS estimate_s,
    sum(ops.num_kernels * ops.count) AS num_kernels,
    sum(ops.flops * ops.count) AS flops,
    sum(ops.bytes_moved * ops.count) AS bytes_moved,
    sum(ops.count) AS num_executions
FROM module_ops AS ops
JOIN chosen USING (run_id)
ANTI JOIN parents ON parents.run_id = ops.run_id AND parents.path = ops.path
GROUP BY ALL
ORDER BY chosen.role DESC, time_s DESC NULLS LAST
