-- Purpose: how runs are usually executed, to fill in what a question leaves open: software, way of execution, number formats.
-- Grain: one device, phase and way, the most frequent of a device and phase first.
-- Parameters: none.
SELECT
    hardware_id, phase, framework, execution, cache_implementation, attention, weight_dtype, activation_dtype, kv_dtype, count(*) AS num_runs
FROM runs
WHERE source_kind IN ('measured', 'published')
    AND status = 'ok'
    AND NOT is_excluded
    AND phase <> 'microbench'
GROUP BY ALL
ORDER BY num_runs DESC, hardware_id, phase, framework, execution, cache_implementation, attention, weight_dtype, activation_dtype, kv_dtype
