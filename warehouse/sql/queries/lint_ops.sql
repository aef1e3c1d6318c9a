-- Purpose: timed operators of the runs of a family of sources, without the kernels below them.
-- Grain: one operator or module of a run.
-- Parameters: $family.
SELECT ops.run_id, ops.path, ops.parent_path, ops.phase, ops.count, ops.time_s
FROM module_ops AS ops
JOIN runs USING (run_id)
WHERE runs.source_kind IN ('measured', 'published') AND split_part(runs.source_id, '/', 1) = $family::VARCHAR
    AND ops.phase IN ('forward', 'backward', 'optimizer') AND ops.time_s IS NOT NULL
ORDER BY ops.run_id, ops.op_index
