-- Purpose: operators and modules of a run, with the roof of its device at their arithmetic intensity. `seconds` is the time as it
--   was measured or published, of an analytical run the bound.
-- Grain: one operator or module; values are of one execution, `count` says how many are folded.
-- Parameters: $run_id.
WITH own AS (
    SELECT
        runs.run_id,
        runs.source_kind,
        runs.hardware_id,
        coalesce(runs.activation_dtype, runs.weight_dtype) AS dtype,
        coalesce(runs.num_devices, 1) AS num_devices
    FROM runs
    WHERE runs.run_id = $run_id::VARCHAR
),
leaves AS (
    SELECT op_index
    FROM ops
    WHERE run_id = $run_id::VARCHAR
        AND path NOT IN (
            SELECT parent_path FROM ops WHERE run_id = $run_id::VARCHAR AND parent_path IS NOT NULL AND parent_path <> path
        )
)
SELECT
    ops.*,
    own.source_kind,
    own.hardware_id,
    leaves.op_index IS NOT NULL AS is_leaf,
    coalesce(ops.time_s, ops.device_time_s, ops.roofline_s) AS seconds,
    ops.flops / nullif(ops.bytes_moved, 0) AS intensity,
    ops.flops / nullif(coalesce(ops.time_s, ops.device_time_s, ops.roofline_s), 0) AS achieved_flops_per_s,
    roofs.ridge,
    own.num_devices * least(roofs.peak_flops_per_s, roofs.bandwidth_bytes_per_s * ops.flops / nullif(ops.bytes_moved, 0)) AS roof_flops_per_s,
    coalesce(
        ops.flops / nullif(coalesce(ops.time_s, ops.device_time_s, ops.roofline_s), 0)
        > 1.001 * own.num_devices * least(roofs.peak_flops_per_s, roofs.bandwidth_bytes_per_s * ops.flops / nullif(ops.bytes_moved, 0)),
        false
    ) AS is_fault
FROM ops
JOIN own USING (run_id)
LEFT JOIN leaves USING (op_index)
LEFT JOIN roofs ON roofs.hardware_id = own.hardware_id AND roofs.dtype = own.dtype
WHERE ops.run_id = $run_id::VARCHAR
ORDER BY ops.op_index
