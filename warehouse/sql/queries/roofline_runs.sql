-- Purpose: runs as points under the roof of their device. A run that does not know its bytes takes FLOPs and bytes of its
--   analytical twin (same config_id, ruleset default) and says so in `work_from`.
-- Grain: one run that has a time and a known work.
-- Parameters: $llm_ids, $hardware_ids, NULL for all; $phase, $dtype, NULL for any; $with_excluded.
WITH twins AS (
    SELECT config_id, any_value(flops) AS flops, any_value(bytes_moved) AS bytes_moved
    FROM runs
    WHERE source_kind = 'analytical' AND ruleset = 'default'
    GROUP BY config_id
),
points AS (
    SELECT
        c.run_id, c.source_kind, c.source_id, c.llm_id, c.llm_name, c.hardware_id, c.device, c.phase, c.batch, c.tokens, c.dtype,
        c.variant, c.is_excluded, c.latency_s, c.bound,
        coalesce(c.activation_dtype, c.weight_dtype) AS roof_dtype,
        coalesce(c.num_devices, 1) AS num_devices,
        CASE WHEN c.flops IS NOT NULL AND c.bytes_moved IS NOT NULL THEN 'own' ELSE 'analytical twin' END AS work_from,
        CASE WHEN c.flops IS NOT NULL AND c.bytes_moved IS NOT NULL THEN c.flops ELSE twins.flops END AS flops,
        CASE WHEN c.flops IS NOT NULL AND c.bytes_moved IS NOT NULL THEN c.bytes_moved ELSE twins.bytes_moved END AS bytes_moved
    FROM comparable AS c
    LEFT JOIN twins USING (config_id)
    WHERE c.latency_s > 0
        AND (c.ruleset IS NULL OR c.ruleset = 'default')
        AND ($llm_ids::VARCHAR[] IS NULL OR list_contains($llm_ids::VARCHAR[], c.llm_id))
        AND ($hardware_ids::VARCHAR[] IS NULL OR list_contains($hardware_ids::VARCHAR[], c.hardware_id))
        AND ($phase::VARCHAR IS NULL OR c.phase = $phase::VARCHAR)
        AND ($dtype::VARCHAR IS NULL OR c.dtype = $dtype::VARCHAR)
        AND (coalesce($with_excluded::BOOLEAN, false) OR NOT c.is_excluded)
)
SELECT
    points.*,
    flops / bytes_moved AS intensity,
    flops / latency_s AS achieved_flops_per_s,
    roofs.ridge,
    CASE WHEN flops / bytes_moved < roofs.ridge THEN 'memory' ELSE 'compute' END AS side,
    num_devices * least(roofs.peak_flops_per_s, roofs.bandwidth_bytes_per_s * flops / bytes_moved) AS roof_flops_per_s,
    coalesce(
        flops / latency_s > 1.001 * num_devices * least(roofs.peak_flops_per_s, roofs.bandwidth_bytes_per_s * flops / bytes_moved), false
    ) AS is_fault
FROM points
LEFT JOIN roofs ON roofs.hardware_id = points.hardware_id AND roofs.dtype = points.roof_dtype
WHERE flops > 0 AND bytes_moved > 0
ORDER BY source_kind = 'analytical', is_fault DESC, source_kind, device, run_id
LIMIT 3000
