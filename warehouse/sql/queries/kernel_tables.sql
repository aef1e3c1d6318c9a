-- Purpose: tables of kernels, layers and collectives that others timed on a device: how many shapes, what they reached, and how near
--   that is to the roof. `num_above` counts shapes faster than their roof: their time, their work or the device's peak is wrong.
-- Grain: one run: one kernel in one number format under one framework.
-- Parameters: $hardware_id, $kernel, $dtype, NULL for any.
SELECT
    kernels.run_id, any_value(runs.source_kind) AS source_kind, any_value(runs.source_id) AS source_id,
    kernels.kernel, any_value(coalesce(runs.activation_dtype, runs.weight_dtype)) AS dtype,
    any_value(runs.framework) AS framework, any_value(runs.framework_version) AS framework_version,
    any_value(concat_ws(
            ', ',
            CASE WHEN runs.num_devices > 1 THEN runs.num_devices || ' devices' END,
            CASE WHEN runs.weight_dtype <> runs.activation_dtype THEN runs.weight_dtype || ' weights' END,
            CASE WHEN runs.kv_dtype IS NOT NULL THEN runs.kv_dtype || ' cache' END,
            nullif(array_to_string(runs.optimizations, ' + '), ''),
            CASE WHEN runs.execution IS NOT NULL THEN runs.execution || ' execution' END
        )) AS variant,
    any_value(runs.source_cell) AS source_cell,
    any_value(runs.is_excluded) AS is_excluded,
    count(*) AS num_shapes,
    max(kernels.flops / nullif(kernels.time_s, 0)) AS best_flops_per_s,
    max(coalesce(kernels.bytes_moved, kernels.size_bytes) / nullif(kernels.time_s, 0)) AS best_bytes_per_s,
    median(kernels.roofline_s / nullif(kernels.time_s, 0)) AS share_p50,
    max(kernels.roofline_s / nullif(kernels.time_s, 0)) AS share_max,
    count(*) FILTER (WHERE kernels.roofline_s > 1.001 * kernels.time_s) AS num_above
FROM kernels
JOIN runs USING (run_id)
WHERE ($hardware_id::VARCHAR IS NULL OR runs.hardware_id = $hardware_id::VARCHAR)
    AND ($kernel::VARCHAR IS NULL OR kernels.kernel = $kernel::VARCHAR)
    AND ($dtype::VARCHAR IS NULL OR coalesce(runs.activation_dtype, runs.weight_dtype) = $dtype::VARCHAR)
GROUP BY kernels.run_id, kernels.kernel
ORDER BY num_shapes DESC, kernels.kernel, dtype, framework, framework_version, kernels.run_id
LIMIT 500
