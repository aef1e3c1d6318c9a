-- Purpose: shapes of timed kernels put together by arithmetic intensity (those with FLOPs) or by size (copies and collectives), half
--   an octave each: what the middle one, the slowest tenth and the best reached. Millions of shapes become a few points a table.
-- Grain: one table of kernels and half octave; at most 4000.
-- Parameters: $hardware_id, $kernel, $dtype, NULL for any; $run_id, NULL for every table.
WITH shapes AS (
    SELECT
        kernels.run_id, kernels.kernel, runs.source_kind, runs.source_id, runs.source_cell, runs.framework, runs.framework_version,
        coalesce(runs.activation_dtype, runs.weight_dtype) AS dtype,
        concat_ws(
            ', ',
            CASE WHEN runs.num_devices > 1 THEN runs.num_devices || ' devices' END,
            CASE WHEN runs.weight_dtype <> runs.activation_dtype THEN runs.weight_dtype || ' weights' END,
            CASE WHEN runs.kv_dtype IS NOT NULL THEN runs.kv_dtype || ' cache' END,
            nullif(array_to_string(runs.optimizations, ' + '), ''),
            CASE WHEN runs.execution IS NOT NULL THEN runs.execution || ' execution' END
        ) AS variant,
        kernels.flops IS NOT NULL AND kernels.bytes_moved > 0 AS has_flops,
        CASE WHEN has_flops THEN kernels.flops / kernels.bytes_moved ELSE coalesce(kernels.size_bytes, kernels.bytes_moved) END AS x,
        CASE WHEN has_flops THEN kernels.flops ELSE coalesce(kernels.size_bytes, kernels.bytes_moved) END / nullif(kernels.time_s, 0) AS y,
        kernels.roofline_s / nullif(kernels.time_s, 0) AS share
    FROM kernels
    JOIN runs USING (run_id)
    WHERE NOT runs.is_excluded
        AND ($hardware_id::VARCHAR IS NULL OR runs.hardware_id = $hardware_id::VARCHAR)
        AND ($kernel::VARCHAR IS NULL OR kernels.kernel = $kernel::VARCHAR)
        AND ($dtype::VARCHAR IS NULL OR coalesce(runs.activation_dtype, runs.weight_dtype) = $dtype::VARCHAR)
        AND ($run_id::VARCHAR IS NULL OR kernels.run_id = $run_id::VARCHAR)
)
SELECT
    run_id, kernel, any_value(source_kind) AS source_kind, any_value(source_id) AS source_id, any_value(source_cell) AS source_cell, any_value(framework) AS framework,
    any_value(framework_version) AS framework_version, any_value(dtype) AS dtype, any_value(variant) AS variant, has_flops,
    exp(avg(ln(x))) AS x,
    count(*) AS num_shapes,
    median(y) AS y_p50,
    quantile_cont(y, 0.1) AS y_p10,
    max(y) AS y_max,
    median(share) AS share_p50,
    max(share) AS share_max,
    count(*) FILTER (WHERE share > 1.001) AS num_above
FROM shapes
WHERE x > 0 AND y > 0
GROUP BY run_id, kernel, has_flops, floor(2 * log2(x))
ORDER BY run_id, kernel, has_flops, x
LIMIT 4000
