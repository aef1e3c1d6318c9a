-- Purpose: kernels of a run as its profiler saw them, below the modules that launched them. They come from a pass of their own:
--   `share` is of the time of all kernels, not of the latency.
-- Grain: one kernel of a module; values are of one execution, `count` says how many are folded.
-- Parameters: $run_id; $module, the path of one module and all below it, NULL for all.
SELECT
    op_index,
    parent_path AS module,
    CASE WHEN starts_with(path, parent_path || '/') THEN substr(path, length(parent_path) + 2) ELSE path END AS kernel,
    op_kind, phase, count, shapes, m, n, k, flops, bytes_moved, num_parameters, memory_bytes,
    coalesce(device_time_s, time_s, cpu_time_s) AS seconds,
    seconds * count AS total_s,
    seconds * count / nullif(sum(seconds * count) OVER (), 0) AS share,
    flops / nullif(seconds, 0) AS achieved_flops_per_s,
    bytes_moved / nullif(seconds, 0) AS achieved_bytes_per_s
FROM ops
WHERE run_id = $run_id::VARCHAR
    AND level = 'kernel'
    AND ($module::VARCHAR IS NULL OR parent_path = $module::VARCHAR OR starts_with(parent_path, $module::VARCHAR || '.'))
ORDER BY total_s DESC NULLS LAST, op_index
LIMIT 5000
