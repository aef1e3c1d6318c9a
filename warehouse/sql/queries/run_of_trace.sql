-- Purpose: the run that a kept profiler trace belongs to.
-- Grain: one run, or nothing where no run names that file.
-- Parameters: $trace, a file name.
SELECT run_id
FROM runs
WHERE trace = $trace::VARCHAR
LIMIT 1
