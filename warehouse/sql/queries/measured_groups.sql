-- Purpose: what has been measured here already (on a busy machine too), so that a plan run again measures only what is missing.
--   A failure that another try would not change counts; what a shipped dataset holds does not.
-- Grain: one group of runs that repeat one another.
-- Parameters: $collector.
SELECT DISTINCT repeat_group_id
FROM runs
WHERE collector = $collector::VARCHAR
    AND source_id = 'rooflake/' || $collector::VARCHAR
    AND status IN ('ok', 'oom', 'timeout', 'unsupported')
    AND repeat_group_id IS NOT NULL
