-- Purpose: runs as points under the roof of their device (view `roofline_points`), each with its roof at its arithmetic intensity.
--   A point above its own roof is a fault; a bound that a source prints in few digits may be 1 % above. A measured point above
--   what microbenchmarks reached on the device, and below its datasheet, is flagged apart: the ceiling can be beaten.
-- Grain: one run that has a time and a known work.
-- Parameters: $llm_ids, $hardware_ids, NULL for all; $phase, $dtype, NULL for any; $with_excluded.
SELECT
    points.*,
    flops / bytes_moved AS intensity,
    flops / latency_s AS achieved_flops_per_s,
    roofs.ridge,
    CASE WHEN flops / bytes_moved < roofs.ridge THEN 'memory' ELSE 'compute' END AS side,
    num_devices * least(roofs.peak_flops_per_s, roofs.bandwidth_bytes_per_s * flops / bytes_moved) AS roof_flops_per_s,
    CASE
        WHEN roofs.has_ceiling
            THEN num_devices * least(roofs.achievable_peak_flops_per_s, roofs.achievable_bandwidth_bytes_per_s * flops / bytes_moved)
    END AS achievable_flops_per_s,
    coalesce(points.source_kind = 'measured' AND flops / latency_s > 1.001 * achievable_flops_per_s, false) AS is_above_measured_roof,
    coalesce(
        flops / latency_s > CASE WHEN is_bound AND source_kind = 'published' THEN 1.01 ELSE 1.001 END * num_devices * least(roofs.peak_flops_per_s, roofs.bandwidth_bytes_per_s * flops / bytes_moved), false
    ) AS is_fault
FROM roofline_points AS points
LEFT JOIN roofs ON roofs.hardware_id = points.hardware_id AND roofs.dtype = points.roof_dtype
WHERE ($llm_ids::VARCHAR[] IS NULL OR list_contains($llm_ids::VARCHAR[], points.llm_id))
    AND ($hardware_ids::VARCHAR[] IS NULL OR list_contains($hardware_ids::VARCHAR[], points.hardware_id))
    AND ($phase::VARCHAR IS NULL OR points.phase = $phase::VARCHAR)
    AND ($dtype::VARCHAR IS NULL OR points.dtype = $dtype::VARCHAR)
    AND (coalesce($with_excluded::BOOLEAN, false) OR NOT points.is_excluded)
ORDER BY source_kind = 'analytical', is_fault DESC, source_kind, device, run_id
LIMIT 3000
