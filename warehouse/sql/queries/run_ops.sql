-- Purpose: operators and modules of a run, with the roof of its device at their arithmetic intensity. `seconds` is the time as it
--   was measured or published, of an analytical run the bound. Kernels are in `run_kernels`. An operator that knows no bytes takes the intensity of its kind in
--   the analytical twin (same config_id, ruleset default) and says so in `intensity_from`. `estimate_share` is of the estimates of
--   all leaves, every execution counted.
-- Grain: one operator or module; values are of one execution, `count` says how many are folded.
-- Parameters: $run_id.
WITH own AS (
    SELECT
        run_id,
        config_id,
        source_kind,
        hardware_id,
        coalesce(activation_dtype, weight_dtype) AS dtype,
        coalesce(num_devices, 1) AS num_devices
    FROM runs
    WHERE run_id = $run_id::VARCHAR
),
twin AS (
    SELECT runs.run_id
    FROM runs
    JOIN own USING (config_id)
    WHERE runs.source_kind = 'analytical' AND runs.ruleset = 'default' AND runs.run_id <> own.run_id
    ORDER BY runs.engine_revision DESC NULLS LAST, runs.collected_at DESC, runs.run_id
    LIMIT 1
),
twin_kinds AS (
    SELECT op_kind, sum(flops * count) / nullif(sum(bytes_moved * count), 0) AS intensity
    FROM module_ops AS ops
    WHERE run_id = (SELECT run_id FROM twin)
    GROUP BY op_kind
),
parents AS (
    SELECT DISTINCT parent_path AS path
    FROM module_ops AS ops
    WHERE run_id = $run_id::VARCHAR AND parent_path IS NOT NULL AND parent_path <> path
),
rated AS (
    SELECT
        ops.*,
        own.source_kind,
        own.hardware_id,
        own.num_devices,
        own.dtype AS roof_dtype,
        parents.path IS NULL AS is_leaf,
        coalesce(ops.time_s, ops.device_time_s, ops.roofline_s) AS seconds,
        coalesce(ops.flops / nullif(ops.bytes_moved, 0), CASE WHEN parents.path IS NULL THEN twin_kinds.intensity END) AS intensity,
        CASE
            WHEN ops.flops IS NOT NULL AND ops.bytes_moved > 0 THEN 'own'
            WHEN parents.path IS NULL AND twin_kinds.intensity IS NOT NULL THEN 'analytical twin'
        END AS intensity_from,
        ops.flops / nullif(coalesce(ops.time_s, ops.device_time_s, ops.roofline_s), 0) AS achieved_flops_per_s
    FROM module_ops AS ops
    JOIN own USING (run_id)
    LEFT JOIN parents USING (path)
    LEFT JOIN twin_kinds USING (op_kind)
    WHERE ops.run_id = $run_id::VARCHAR
)
SELECT
    rated.*,
    rated.estimate_s * rated.count
    / nullif(sum(CASE WHEN rated.is_leaf THEN rated.estimate_s * rated.count END) OVER (), 0) AS estimate_share,
    roofs.ridge,
    rated.num_devices * least(roofs.peak_flops_per_s, roofs.bandwidth_bytes_per_s * rated.intensity) AS roof_flops_per_s,
    CASE
        WHEN roofs.has_ceiling
            THEN rated.num_devices * least(roofs.achievable_peak_flops_per_s, roofs.achievable_bandwidth_bytes_per_s * rated.intensity)
    END AS achievable_flops_per_s,
    coalesce(rated.source_kind = 'measured' AND rated.achieved_flops_per_s > 1.001 * achievable_flops_per_s, false) AS is_above_measured_roof,
    coalesce(
        rated.achieved_flops_per_s
        > 1.001 * rated.num_devices * least(roofs.peak_flops_per_s, roofs.bandwidth_bytes_per_s * rated.intensity),
        false
    ) AS is_fault
FROM rated
LEFT JOIN roofs ON roofs.hardware_id = rated.hardware_id AND roofs.dtype = rated.roof_dtype
ORDER BY rated.op_index
